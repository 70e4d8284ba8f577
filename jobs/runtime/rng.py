"""Random number generators of one process, saved and put back exactly. As JSON: no pickle."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import Any

from latentctl.record.atomic import read_json, write_json

VERSION = 1


def _loaded(name: str) -> Any:
    """A module that this process has loaded, else None. Waits for one that a thread is loading."""
    return importlib.import_module(name) if name in sys.modules else None


def seed_all(seed: int) -> None:
    """Seed python, numpy and torch (every visible GPU included)."""
    random.seed(seed)
    if numpy := _loaded("numpy"):
        numpy.random.seed(seed % 2**32)
    if torch := _loaded("torch"):
        torch.manual_seed(seed)


def capture() -> dict[str, Any]:
    """The state of every generator that this process has loaded, as JSON."""
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {"version": VERSION, "python": [version, list(numbers), gauss]}
    if numpy := _loaded("numpy"):
        name, keys, pos, has_gauss, cached = numpy.random.get_state()
        state["numpy"] = [name, keys.tolist(), int(pos), int(has_gauss), float(cached)]
    if torch := _loaded("torch"):
        state["torch"] = _hex(torch.get_rng_state())
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = _hex(torch.cuda.get_rng_state())  # of this process's own device
    return state


def restore(state: dict[str, Any]) -> None:
    """Put back what `capture` gave. Raises ValueError for another version of the form."""
    if state.get("version") != VERSION:
        raise ValueError(f"generator state of version {state.get('version')}, this code reads {VERSION}")
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "numpy" in state:
        import numpy

        name, keys, pos, has_gauss, cached = state["numpy"]
        numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), pos, has_gauss, cached))
    if "torch" in state:
        import torch

        torch.set_rng_state(_tensor(state["torch"]))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(_tensor(state["cuda"]))


def save(folder: Path, rank: int) -> None:
    """Each rank of a checkpoint writes its own."""
    write_json(_path(folder, rank), capture(), pretty=False)


def load(folder: Path, rank: int) -> None:
    """Raises FileNotFoundError where the checkpoint was written by fewer processes."""
    restore(read_json(_path(folder, rank)))


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rng-{rank:05d}.json"


def _hex(state: Any) -> str:
    return bytes(state.tolist()).hex()


def _tensor(text: str) -> Any:
    import torch

    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
