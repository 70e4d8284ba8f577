"""Evaluates, trains and evaluates again in one process: `python train_between.py FOLDER`; asserts fail it.

The second evaluation finds a process group, which is not vLLM's: it computes in another process, and leaves
the group as it was.
"""

from __future__ import annotations

import gc
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from eval_stage import context, experiment, texts

from jobs.generate.vllm_engine import VllmEngine
from jobs.grade import samples
from jobs.methods.evaluate import Evaluate
from jobs.methods.sft import Sft
from jobs.runtime import distributed
from latentctl.spec.experiment import Experiment

MODEL = {"init": {"arch": "qwen3", "hidden": 64, "heads": 2, "max_len": 256}}
DATA = {"name": "shell-game", "split": "test", "limit": 12, "options": {"swaps": 2}}
TRACED = {"input": "soft", "start": "prompt", "stop": 2, "markers": "think"}


def main(folder: Path) -> None:
    exp = experiment(model=MODEL, sampling={"max_new_tokens": 12}, eval={"engine": "vllm"}, latent=TRACED)
    engines: list[Any] = []
    runners: list[Any] = []
    opened = VllmEngine.__init__

    def watched(self: Any, *args: Any, **kw: Any) -> None:
        opened(self, *args, **kw)
        engines.append(self)
        if not self.devices.own_process:
            core = self._vllm.engine_core.engine_core
            runners.append(weakref.ref(core.model_executor.driver_worker.worker.model_runner))

    VllmEngine.__init__ = watched
    before, threads = told(), torch.set_num_threads

    first = context(folder / "a", exp)
    Evaluate(first).run()
    assert not distributed.joined()
    assert torch.set_num_threads is threads
    assert told() == before, "vLLM's settings are for vLLM alone"
    gc.collect()
    assert runners[0]() is None, "vLLM's model is gone"

    train(folder / "b", first.world)
    assert distributed.joined()

    second = context(folder / "c", exp)
    with deafness() as deaf:
        assert Evaluate(second).run()["engine"] == "vllm"
    assert texts(first) == texts(second)
    traces = [list(samples.read(ctx.paths.traces)) for ctx in (first, second)]
    assert len(traces[0]) == 12
    assert traces[0] == traces[1], "what a latent step was comes from another process too"
    assert deaf
    assert all(deaf), "USR2 is for this process alone"
    assert distributed.joined()
    assert [engine._vllm for engine in engines] == [None, None]
    left = [words_of(child) for child in psutil.Process().children(recursive=True)]
    assert not [words for words in left if "spawn_main" in words]


def words_of(process: psutil.Process) -> str:
    """Of one that is dead or dies, and so holds nothing: none."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # ZombieProcess is one
        return ""


def train(folder: Path, world: Any) -> None:
    sft = {"name": "sft", "method": "sft", "from": "model", "model": MODEL, "dataset": DATA,
           "prompt": {"form": "plain"}, "train": {"precision": "fp32"}}  # fmt: skip
    distributed.init(world, deepspeed=True)
    ctx = context(folder, Experiment.model_validate({"name": "x", "stages": [sft]}), debug=True)
    Sft(ctx).run()
    assert (ctx.paths.model / "model.safetensors").is_file()


@contextmanager
def deafness() -> Iterator[list[bool]]:
    """Whether each process started from this one blocks USR2, looked at while samples come."""
    add, found = samples.Appender.add, []

    def look(self: Any, row: Any) -> None:
        add(self, row)
        for child in psutil.Process().children(recursive=True):
            status = Path(f"/proc/{child.pid}/status").read_text()
            found.append(bool(int(status.split("SigBlk:")[1].split()[0], 16) & 1 << 11))

    samples.Appender.add = look
    try:
        yield found
    finally:
        samples.Appender.add = add


def told() -> dict[str, str]:
    """The environment, but for what torch notes there for itself."""
    return {k: v for k, v in os.environ.items() if not k.startswith("_")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
