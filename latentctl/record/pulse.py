"""A worker's last sign of work, on the node itself: no network file system between the two that share it.

The entry makes the file and names it in PULSE; the worker writes over it with every step. It goes with the
entry. Where a container does not show it, there is no pulse, and nothing is concluded from that.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from latentctl.record.journal import process_start

PULSE = "LATENTCTL_PULSE"
_SIZE = 256
_MEMORY = "/dev/shm"
_NAME = "latentctl-pulse"


class Beat(NamedTuple):
    """How far a worker is. A server, or an engine in the middle of a batch, counts `work` between steps."""

    stage: str
    step: int
    unit: str
    work: int


class Pulse:
    """The worker's side."""

    def __init__(self, path: str | None) -> None:
        self._fd: int | None = None
        with contextlib.suppress(OSError):
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC) if path else None

    def tell(self, beat: Beat) -> None:
        """A few microseconds; nothing where there is no file."""
        if self._fd is None:
            return
        line = json.dumps([beat.stage[:80], beat.step, beat.unit[:20], beat.work]).encode()
        try:
            os.pwrite(self._fd, line.ljust(_SIZE), 0)
        except OSError:  # memory is full: no pulse any more, and the work goes on
            os.close(self._fd)
            self._fd = None


class PulseFile:
    """The entry's side."""

    def __init__(self) -> None:
        """Raises OSError."""
        folder = Path(_MEMORY if os.access(_MEMORY, os.W_OK) else tempfile.gettempdir())
        pid = os.getpid()
        for path in folder.glob(f"{_NAME}-*"):  # of entries that were killed
            *_, other, start = path.name.split("-")
            if other.isdecimal() and process_start(int(other)) != start:
                with contextlib.suppress(OSError):
                    path.unlink()
        self.path = folder / f"{_NAME}-{pid}-{process_start(pid)}"
        os.close(os.open(self.path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW, 0o600))

    def read(self) -> Beat | None:
        """The last one; None before the first, and where there is none any more."""
        try:
            return Beat(*json.loads(self.path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
