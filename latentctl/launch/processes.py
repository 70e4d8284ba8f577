"""Processes of this machine, found through /proc, and how to end those of a run and nobody else's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

RUN_MARK = "LATENTCTL_RUN_DIR"
JOB_MARK = "LATENTCTL_JOB"
"""Environment variables that every process of a job carries: the run directory and the job's name."""

ENTRY_MARK = "LATENTCTL_ENTRY"
"""Only on submitit's controller and the entries: they know what to do when told to stop."""


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    session: int
    start: str
    entry: bool = False


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
    """The processes of a run's jobs, or of one job: the marked ones, their descendants, their sessions.

    The supervisor is not among them: it carries no job mark. Nor is the caller.
    """
    processes = table()
    found = set()
    for pid in list(processes):
        marks = _marks(pid)
        name = marks.get(JOB_MARK)
        if marks.get(RUN_MARK) == str(run) and name is not None and job in (None, name):
            found.add(pid)
            processes[pid] = replace(processes[pid], entry=ENTRY_MARK in marks)
    found.discard(os.getpid())
    while True:
        more = {p.pid for p in processes.values() if p.parent in found or p.session in found} - found
        more.discard(os.getpid())
        if not more:
            return [processes[pid] for pid in sorted(found)]
        found |= more


def _marks(pid: int) -> dict[str, str]:
    """The LATENTCTL_ part of a process's environment; empty where it is gone, or somebody else's."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    words = [os.fsdecode(w) for w in environ.split(b"\0") if w.startswith(b"LATENTCTL_")]
    return dict(w.split("=", 1) for w in words if "=" in w)


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
    """TERM the entries that `find` sees, and KILL all that is left after `grace` seconds, until it sees none.

    The entries tell their workers; a TERM to a worker's helpers would break it before it could checkpoint.
    Looks again after each round, for some may be born while others are killed. Returns what would not die.
    """
    left = find()
    if grace > 0:
        for process in [p for p in left if p.entry] or left:
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
