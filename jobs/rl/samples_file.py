"""Samples on disk: one process appends, others read; whole samples count, a torn end does not."""

from __future__ import annotations

import os
import pickle
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jobs.generate.protocol import Request, Sample

_HEAD = 12  # bytes: length and checksum of what follows


class Place(NamedTuple):
    """Where one trainer process's part of a set lies: what it asked, and what each generator made of it."""

    folder: Path
    key: str
    version: int
    rank: int

    @property
    def asked(self) -> Path:
        return self.folder / f"{self._name}.asked"

    def samples(self, generator: int) -> Path:
        return self.folder / f"{self._name}.from-{generator:05d}.samples"

    def made(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self._name}.from-*.samples"))

    def read(self) -> list[Sample]:
        return [sample for path in self.made() for sample in SampleReader(path).new()]

    def remove(self) -> None:
        for path in (self.asked, *self.made()):
            path.unlink(missing_ok=True)

    @property
    def _name(self) -> str:
        return f"{self.key}.v-{self.version:06d}.rank-{self.rank:05d}"


_NAME = re.compile(r"(?P<key>.+)\.v-(?P<version>\d+)\.rank-(?P<rank>\d+)\.(asked|from-\d+\.samples)")


def places(folder: Path, pattern: str) -> list[Place]:
    """Those of which a file is there, in the order in which they should be made."""
    found = set()
    for path in folder.glob(pattern):
        if match := _NAME.fullmatch(path.name):
            found.add(Place(folder, match["key"], int(match["version"]), int(match["rank"])))
    return sorted(found, key=lambda p: (p.version, p.key, p.rank))


class SampleWriter:
    """Appends to `path`; what a kill left torn at its end is cut off first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        _, end = _scan(os.pread(self._fd, os.fstat(self._fd).st_size, 0))
        os.ftruncate(self._fd, end)
        os.lseek(self._fd, end, os.SEEK_SET)

    def add(self, sample: Sample) -> None:
        """Readable once this returns, also after a kill of this process."""
        data = pickle.dumps(sample)
        left = memoryview(len(data).to_bytes(8, "little") + zlib.crc32(data).to_bytes(4, "little") + data)
        while left:
            left = left[os.write(self._fd, left) :]

    def close(self) -> None:
        os.close(self._fd)


class SampleReader:
    """Reads on where it stopped."""

    def __init__(self, path: Path) -> None:
        self.path, self._at = path, 0

    def new(self) -> list[Sample]:
        """Those that came whole since the last call; none while there is no file."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._at)
                found, end = _scan(file.read())
        except FileNotFoundError:
            return []
        self._at += end
        return found


def missing(requests: Sequence[Request], there: Iterable[Sample]) -> list[Request]:
    """Those that no sample answers. The rows of a tree are found together: where one is missing, all are."""
    have = {(s.id, s.index) for s in there}
    torn = {r.id for r in requests if r.tree is not None and (r.id, r.index) not in have}
    return [r for r in requests if (r.id, r.index) not in have or r.id in torn]


def _scan(data: bytes) -> tuple[list[Sample], int]:
    """The whole samples, and where they end."""
    found, at = [], 0
    while at + _HEAD <= len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        check = int.from_bytes(data[at + 8 : at + _HEAD], "little")
        body = data[at + _HEAD : at + _HEAD + size]
        if len(body) < size or zlib.crc32(body) != check:
            break
        found.append(pickle.loads(body))  # the run's own processes wrote it
        at += _HEAD + size
    return found, at
