"""Processes of this machine, found through /proc, and how to end all of a run without hitting anybody else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RUN_MARK = "LATENTCTL_RUN_DIR"
JOB_MARK = "LATENTCTL_JOB"
"""Environment variables that every process of a job carries: the run directory and the job's name."""


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    session: int
    start: str


def table() -> dict[int, Process]:
    """Every living process, by pid; zombies are left out."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            process = _process(int(entry))
            if process is not None:
                found[process.pid] = process
    return found


def _process(pid: int) -> Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else Process(pid, int(fields[1]), int(fields[3]), fields[19])


def of_run(run: Path, job: str | None = None) -> list[Process]:
    """The processes of a run's jobs (or of one job): marked ones, what descends from them, what is in their sessions.

    The supervisor is not among them: it carries no job mark. Nor is the caller.
    """
    processes = table()
    marked = {pid for pid in processes if _is_marked(pid, str(run), job)}
    marked.discard(os.getpid())
    found = set(marked)
    while True:
        more = {p.pid for p in processes.values() if p.parent in found or p.session in found} - found
        more.discard(os.getpid())
        if not more:
            return [processes[pid] for pid in sorted(found)]
        found |= more


def _is_marked(pid: int, run: str, job: str | None) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, or somebody else's
        return False
    marks = dict(e.split(b"=", 1) for e in environ.split(b"\0") if b"=" in e)
    if marks.get(RUN_MARK.encode()) != os.fsencode(run):
        return False
    name = marks.get(JOB_MARK.encode())
    return name is not None if job is None else name == os.fsencode(job)


def children(pid: int) -> list[Process]:
    return [p for p in table().values() if p.parent == pid]


def send(process: Process, number: int) -> bool:
    """Signal exactly this process, never one that got its pid since. False: it is gone (or not ours)."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        now = _process(process.pid)
        if now is None or now.start != process.start:
            return False
        signal.pidfd_send_signal(fd, number)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def end_all(find: Callable[[], list[Process]], *, grace: float, poll: float = 0.1) -> list[Process]:
    """TERM all that `find` sees, and after `grace` seconds KILL, until it sees none. Returns what would not die.

    It looks again after each round: processes may be born while others are killed.
    """
    left = find()
    if grace > 0:
        for process in left:
            send(process, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while left and time.monotonic() < deadline:
            time.sleep(poll)
            left = find()
    deadline = time.monotonic() + 10
    while left and time.monotonic() < deadline:
        for process in left:
            send(process, signal.SIGKILL)
        time.sleep(0.02)
        left = find()
    return left
