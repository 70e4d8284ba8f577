"""The file metrics.jsonl: rows in, torn ends mended, rewound on resume."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from latentctl.record.atomic import write_bytes


class MetricsFile:
    """Appends rows. A row outlives a kill of the process at once, and a crash of the machine after `sync`.

    The file stays open: opening and closing it for each row would wait for a network file system each time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def append(self, row: dict[str, Any]) -> None:
        """Raises OSError where the disk refuses, ValueError for what JSON cannot hold."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        if self._fd is None:
            self._fd, torn = self._open()
            line = b"\n" + line if torn else line
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(f"{self.path}: short write")
        except OSError:
            self.close()  # the next row looks at the end of the file again
            raise

    def rewind(self, stage: str, step: int) -> None:
        """Drop the rows of `stage` beyond `step`, and what is torn."""
        self.close()
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_bytes().split(b"\n") if _stays(line, stage, step)]
        write_bytes(self.path, b"".join(line + b"\n" for line in kept))

    def sync(self) -> None:
        """Make the rows durable. May be called from another thread."""
        if (fd := self._fd) is not None:
            with suppress(OSError):  # closed meanwhile
                os.fsync(fd)

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                os.close(fd)

    def _open(self) -> tuple[int, bool]:
        """The file, and whether its last line was cut short."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(fd).st_size
            return fd, bool(size) and os.pread(fd, 1, size - 1) != b"\n"
        except OSError:
            os.close(fd)
            raise


def _stays(line: bytes, stage: str, step: int) -> bool:
    try:
        row = json.loads(line)
        return row["stage"] != stage or row["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
