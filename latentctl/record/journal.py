"""The append-only journal: one file per writer, fsync per event, a torn last line tolerated.

An event is a JSON object with at least `v` (version of the form), `event`, `time` (UTC, ISO 8601), and, where
it concerns one, `job` and `attempt`. Order between writers is never taken from clocks: see `states.fold`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from latentctl.record.atomic import fsync

VERSION = 1


def now() -> str:
    """UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def boot_id() -> str:
    """Tells one boot of a machine from the next: a pid means nothing without it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def process_start(pid: int) -> str | None:
    """The kernel's start time of a process in clock ticks since boot, None if there is no such process.

    (boot, pid, start) names a process for ever: a reused pid has another start.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else fields[19]


@cache
def _writer(pid: int) -> str:
    return f"{socket.gethostname()}-{boot_id()[:8]}-{pid}-{process_start(pid) or 0}"


class Journal:
    """Writes events of this process. Cheap to make; the file appears with the first event."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / f"{_writer(os.getpid())}.jsonl"

    def append(self, event: str, *, job: str | None = None, attempt: int | None = None, **data: Any) -> None:
        """Append one event durably. Raises OSError where the disk refuses."""
        whose = {k: v for k, v in (("job", job), ("attempt", attempt)) if v is not None}
        self.append_all([(event, {**whose, **data})])

    def append_all(self, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Append several, (event, its data) each, with one write. Raises OSError where the disk refuses."""
        at = now()
        rows = [{"v": VERSION, "event": event, "time": at, **data} for event, data in events]
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows]
        fd = self._open()
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":  # a torn line of a write that failed half-way
                lines.insert(0, b"\n")
            text = b"".join(lines)
            written = os.write(fd, text)
            if written != len(text):
                raise OSError(f"{self.path}: short write ({written} of {len(text)} bytes)")
            fsync(fd)
        finally:
            os.close(fd)
        with contextlib.suppress(OSError):
            os.utime(self.folder)  # whoever remembers a run sees by this alone that it has changed

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        try:
            return os.open(self.path, flags, 0o644)
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, flags, 0o644)


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Every whole event of every writer, in file order per writer. Lines that do not parse are left out."""
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n"):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "event" in row:
                yield row
