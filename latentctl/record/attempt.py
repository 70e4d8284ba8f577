"""Attempts: one start of a job by a scheduler.

The number is the fencing token: a lower one commits nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from latentctl.record.atomic import try_read_json, write_json
from latentctl.record.journal import now, read
from latentctl.record.paths import AttemptPaths, JobPaths, RunPaths
from latentctl.record.states import TERMINAL, fold


class StaleAttempt(Exception):
    """A later attempt of the job exists: this process is left over and must stop."""

    def __init__(self, job: JobPaths, attempt: int, current: int) -> None:
        self.attempt, self.current = attempt, current
        super().__init__(f"attempt {attempt} of job {job.name} is over: attempt {current} has started")


def claim(job: JobPaths, key: str, info: dict[str, Any]) -> AttemptPaths:
    """Make the attempt of `key` (scheduler id + restart count), or find the one that this key has open.

    The number is above every existing one and above every ended one of the journal. `info` goes to
    attempt.json, with `key`, `attempt` and `time` added.
    """
    found = find(job, key)
    if found is not None:
        return found
    job.attempts_dir.mkdir(parents=True, exist_ok=True)
    number = upcoming(job)
    while True:
        paths = job.attempt(number)
        try:
            paths.root.mkdir()
        except FileExistsError:
            number += 1
            continue
        write_json(paths.info, {**info, "key": key, "attempt": number, "time": now()})
        return paths


def find(job: JobPaths, key: str) -> AttemptPaths | None:
    """The open attempt of this key.

    An ended one does not count: a scheduler's ids start again after a wipe.
    """
    latest = _latest(job, key)
    return None if latest is None or latest.end.exists() else latest


def has_ended(job: JobPaths, key: str) -> bool:
    """Whether the latest attempt of this key is over."""
    latest = _latest(job, key)
    return latest is not None and latest.end.exists()


def _latest(job: JobPaths, key: str) -> AttemptPaths | None:
    for paths in reversed(job.attempts()):
        info = try_read_json(paths.info)
        if info is not None and info["key"] == key:
            return paths
    return None


def upcoming(job: JobPaths) -> int:
    """The number that the next attempt gets: above all folders, and above what the journal has ended."""
    state, attempt, _ = fold(read(RunPaths(job.root.parent.parent).journal), job.name)
    return max(current(job) + 1, attempt + 1 if state in TERMINAL else attempt, 1)


def current(job: JobPaths) -> int:
    """The highest attempt, 0 before the first."""
    attempts = job.attempts()
    return attempts[-1].number if attempts else 0


def lengths(marks: Sequence[tuple[str | None, str | None]]) -> list[float | None]:
    """Seconds of a job's attempts, from when each began and ended, oldest first. One that ended without a
    word lasted until the next began, the last one until now; None where the begin is not known."""
    found: list[float | None] = []
    for index, (begin, end) in enumerate(marks):
        until = end or next((b for b, _ in marks[index + 1 :] if b), None)
        stop = time.time() if until is None else datetime.fromisoformat(until).timestamp()
        found.append(None if begin is None else max(0.0, stop - datetime.fromisoformat(begin).timestamp()))
    return found


def ensure_current(job: JobPaths, attempt: int) -> None:
    """Raises `StaleAttempt` when a higher attempt exists. Call it right before anything is committed."""
    highest = current(job)
    if highest > attempt:
        raise StaleAttempt(job, attempt, highest)
