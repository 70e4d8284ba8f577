"""The append-only journal: one file per writer, fsync per event, a torn last line tolerated.

An event is a JSON object with at least `v` (version of the form), `event`, `time` (UTC, ISO 8601), and, where
it concerns one, `job` and `attempt`. Order between writers is never taken from clocks: see `states.fold`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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


class Journal:
    """Writes events of this process. Cheap to make; the file appears with the first event."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pid = os.getpid()
        name = f"{socket.gethostname()}-{boot_id()[:8]}-{pid}-{process_start(pid) or 0}.jsonl"
        self.path = folder / name

    def append(self, event: str, *, job: str | None = None, attempt: int | None = None, **data: Any) -> None:
        """Append one event durably. Raises OSError where the disk refuses."""
        row: dict[str, Any] = {"v": VERSION, "event": event, "time": now()}
        if job is not None:
            row["job"] = job
        if attempt is not None:
            row["attempt"] = attempt
        row.update(data)
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":  # a torn line of a write that failed half-way
                line = b"\n" + line
            written = os.write(fd, line)
            if written != len(line):
                raise OSError(f"{self.path}: short write ({written} of {len(line)} bytes)")
            os.fsync(fd)
        finally:
            os.close(fd)


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
