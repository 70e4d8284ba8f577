"""Rows of `samples.jsonl`: what was generated, with all that is needed to grade it again. One JSON
object a line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import write_bytes

Row = dict[str, Any]
_FSYNC_S = 5.0


def key(row: Row) -> tuple[str, int]:
    """Which sample a row is: (problem, index)."""
    return row["id"], row["index"]


class Appender:
    """Appends rows, each in one write. A line that an earlier attempt left torn is closed first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")
        self._synced = time.monotonic()

    def add(self, row: Row) -> None:
        data = _line(row)
        if os.write(self._fd, data) != len(data):
            raise OSError("short write: the disk is full")
        if time.monotonic() - self._synced > _FSYNC_S:
            os.fsync(self._fd)
            self._synced = time.monotonic()

    def close(self) -> None:
        os.fsync(self._fd)
        os.close(self._fd)


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def read_parts(folder: Path, kind: str = "rank") -> Iterator[Row]:
    """Every whole row of every rank's file, each sample once; lines torn by a kill are left out.

    `kind`: "rank" for rows of samples, "traces" for traces, which lie beside them.
    """
    seen: set[tuple[str, int]] = set()
    for path in sorted(folder.glob(f"{kind}-*.jsonl")) if folder.is_dir() else []:
        for row in read_whole(path):
            if key(row) not in seen:
                seen.add(key(row))
                yield row


def read_whole(path: Path) -> Iterator[Row]:
    """The rows of a file that is appended to; lines torn by a kill are left out."""
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
            key(row)
        except (ValueError, TypeError, KeyError):
            continue
        yield row


def read(path: Path) -> list[Row]:
    """A `samples.jsonl`, which was written whole. Raises JobUserError where it is not there or damaged."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise JobUserError(f"no samples to read: {error.strerror}", where=str(path)) from error
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
                key(row)
            except (ValueError, TypeError, KeyError) as error:
                raise JobUserError("not a row of samples.jsonl", where=f"{path}:{number}") from error
            rows.append(row)
    return rows


def trace_part(part: Path) -> Path:
    """Where the traces of the samples in `part` (a rank's file) are appended."""
    return part.with_name(part.name.replace("rank-", "traces-"))


def write(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file atomically."""
    write_bytes(path, b"".join(map(_line, rows)))
