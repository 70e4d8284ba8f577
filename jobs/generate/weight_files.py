"""A folder of safetensors that another job may be about to remove.

Tensors are read with plain reads, one after the other, and never mapped: a mapped file that vanishes from a
network file system kills its reader, a plain read raises.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import fsync_dir

_SHARD = 1 << 30  # bytes
_LONGEST_HEADER = 100_000_000
"""More the format does not allow."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Unreadable(JobUserError):
    """Files are missing, torn or vanished while they were read: a later try may find whole ones."""


class _Place(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors. Raises Unreadable, also for a folder without safetensors, and for a file
    that ends too early."""
    found: dict[str, tuple[int, ...]] = {}
    for path in _files(folder):
        with _opened(path) as f:
            for name, place in _header(path, f).items():
                if name in found:
                    raise Unreadable(f"{name} is in two files", where=str(folder))
                found[name] = place.shape
    return found


def read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, in the order in which they lie on disk. Raises as `shapes`."""
    for path in _files(folder):
        with _opened(path) as f:
            places = sorted(_header(path, f).items(), key=lambda item: item[1].start)
            for name, place in places:
                yield name, _tensor(path, f, place)


def write(folder: Path, tensors: Iterable[tuple[str, Tensor]], *, shard: int = _SHARD) -> dict[str, int]:
    """Write `tensors` into files of about `shard` bytes, each on disk when this returns: name -> bytes of
    every file."""
    from safetensors.torch import save_file

    sizes: dict[str, int] = {}
    held: dict[str, Tensor] = {}

    def save() -> None:
        path = folder / f"model-{len(sizes) + 1:05d}.safetensors"
        save_file(held, path, metadata={"format": "pt"})
        with open(path, "rb") as f:
            os.fsync(f.fileno())
        sizes[path.name] = path.stat().st_size
        held.clear()

    for name, tensor in tensors:
        held[name] = tensor.detach().contiguous()
        if sum(t.nbytes for t in held.values()) >= shard:
            save()
    if held:
        save()
    fsync_dir(folder)
    return sizes


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    with suppress(OSError):
        found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise Unreadable("no *.safetensors here", where=str(folder))
    return found


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as f:
            yield f
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}", where=str(path)) from error


def _header(path: Path, f: BinaryIO) -> dict[str, _Place]:
    size = os.fstat(f.fileno()).st_size
    first = f.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(_LONGEST_HEADER, size - 8):
        raise Unreadable("the file is torn, or no safetensors", where=str(path))
    found: dict[str, _Place] = {}
    try:
        for name, said in json.loads(f.read(length)).items():
            if name != "__metadata__":
                start, end = said["data_offsets"]
                dtype = _DTYPES[said["dtype"]]
                found[name] = _Place(dtype, tuple(said["shape"]), 8 + length + start, end - start)
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"the file's header says nothing known: {error}", where=str(path)) from error
    if any(place.start + place.size > size for place in found.values()):
        raise Unreadable("the file is torn: it ends before its last tensor", where=str(path))
    return found


def _tensor(path: Path, f: BinaryIO, place: _Place) -> Tensor:
    tensor = torch.empty(place.shape, dtype=place.dtype)
    if tensor.nbytes != place.size:
        raise Unreadable("the file's header contradicts itself", where=str(path))
    if tensor.nbytes:
        f.seek(place.start)
        if f.readinto(memoryview(tensor.view(-1).view(torch.uint8).numpy())) != place.size:  # type: ignore[attr-defined]
            raise Unreadable("the file is torn: it ends before its last tensor", where=str(path))
    return tensor
