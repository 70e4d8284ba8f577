"""Samples in a file that one process appends to and others read: whole ones count, a torn end does not."""

from __future__ import annotations

import os
import pickle
import zlib
from pathlib import Path

from jobs.generate.protocol import Sample

_HEAD = 12  # bytes: length and checksum of what follows


class PartWriter:
    """Appends to `path`; what a kill left torn at its end is cut off first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        _, end = _scan(os.pread(self._fd, os.fstat(self._fd).st_size, 0), 0)
        os.ftruncate(self._fd, end)
        os.lseek(self._fd, end, os.SEEK_SET)

    def add(self, sample: Sample) -> None:
        """Durable once this returns, but for a crash of the machine."""
        data = pickle.dumps(sample)
        head = len(data).to_bytes(8, "little") + zlib.crc32(data).to_bytes(4, "little")
        whole = head + data
        if os.write(self._fd, whole) != len(whole):
            raise OSError("short write: the disk is full")

    def close(self) -> None:
        os.fsync(self._fd)
        os.close(self._fd)


class PartReader:
    """Reads on where it stopped."""

    def __init__(self, path: Path) -> None:
        self.path, self._at = path, 0

    def new(self) -> list[Sample]:
        """Those that came whole since the last call; none while there is no file."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return []
        found, end = _scan(data, 0)
        self._at += end
        return found


def _scan(data: bytes, at: int) -> tuple[list[Sample], int]:
    """Whole samples from `at` on, and where they end."""
    found = []
    while at + _HEAD <= len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        check = int.from_bytes(data[at + 8 : at + _HEAD], "little")
        body = data[at + _HEAD : at + _HEAD + size]
        if len(body) < size or zlib.crc32(body) != check:
            break
        found.append(pickle.loads(body))  # the run's own processes wrote it
        at += _HEAD + size
    return found, at
