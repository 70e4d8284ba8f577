"""Which state a job is in, judged from all evidence: journal, result, heartbeat, scheduler. Never a guess.

Where the evidence disagrees or is missing the answer is `unknown`, and the evidence is told. Pure: reads
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from latentctl.record.states import TERMINAL, JobState

FRESH_S = 120.0
"""A heartbeat comes every second or so; one younger than this proves life even over a slow file system."""
_DEAD_PARENTS = frozenset({"failed", "cancelled", "lost", "skipped"})

_LIVE: dict[str, JobState] = {
    "alive": "running",
    "PENDING": "pending", "REQUEUED": "pending", "REQUEUE_HOLD": "pending", "REQUEUE_FED": "pending",
    "SPECIAL_EXIT": "pending", "RESV_DEL_HOLD": "pending",
    "CONFIGURING": "running", "RUNNING": "running", "COMPLETING": "running", "SUSPENDED": "running",
    "STOPPED": "running", "SIGNALING": "running", "RESIZING": "running", "STAGE_OUT": "running",
}  # fmt: skip
"""What a scheduler says of a job that it still has."""
_OVER: dict[str, JobState] = {
    "CANCELLED": "cancelled", "FAILED": "failed", "TIMEOUT": "failed", "DEADLINE": "failed",
    "OUT_OF_MEMORY": "failed", "NODE_FAIL": "lost", "BOOT_FAIL": "lost", "PREEMPTED": "lost",
    "REVOKED": "lost", "LAUNCH_FAILED": "failed", "RECONFIG_FAIL": "lost",
}  # fmt: skip
"""What it says of one that it has no more, and that could not say so itself. COMPLETED is not among them: a
job has succeeded when its result is there."""


class FactLike(Protocol):
    """What is read of `launch.protocol.Fact`."""

    @property
    def state(self) -> str | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def source(self) -> str: ...


@dataclass(frozen=True)
class Evidence:
    """All that is known of one job."""

    journal: JobState
    """The fold of its events."""
    attempt: int
    """The newest attempt, by events and folders."""
    submitted: bool
    """The journal holds a scheduler's id."""
    result_attempt: int | None = None
    """Which attempt wrote result.json; None: there is none."""
    heartbeat_age: float | None = None
    """Seconds; None: none of this attempt."""
    worker_alive: bool | None = None
    """Whether the process of the heartbeat lives; None: it runs on another machine, or there is no
    heartbeat."""
    fact: FactLike | None = None
    """None: the scheduler was not asked, or did not answer."""
    unanswered: str | None = None
    """Why the scheduler did not answer."""
    parents: Mapping[str, JobState] | None = None


@dataclass(frozen=True)
class Verdict:
    """A state and why."""

    state: JobState
    why: str | None = None
    """For a person: why it waits, or which evidence disagrees."""


def judge(e: Evidence) -> Verdict:
    """The state of one job."""
    if e.result_attempt is not None and e.result_attempt >= e.attempt:
        if e.journal == "failed":
            return Verdict("unknown", "there is a result.json, but the journal says that the attempt failed")
        return Verdict("succeeded")
    if e.result_attempt is not None and e.journal in ("planned", "submitted"):
        return Verdict("succeeded", "it ended while it was submitted again")
    if e.journal == "succeeded":
        return Verdict("unknown", f"the journal says succeeded, but attempt {e.attempt} left no result.json")
    if e.journal in TERMINAL:
        return _ended(e)
    if not e.submitted and e.journal != "running":
        return Verdict("planned", "not submitted")
    word = e.fact.state.split(" ")[0].rstrip("+") if e.fact is not None and e.fact.state else None
    if e.fact is None or word is None:
        return _without_scheduler(e)
    if word == "gone":
        return _supervisor_gone(e)
    if word in _LIVE:
        return _live(e, _LIVE[word], word)
    return _over(e, word)


def _ended(e: Evidence) -> Verdict:
    """The journal tells an end. A scheduler that has it queued again knows of a later start."""
    queued = e.fact is not None and e.fact.state is not None and _LIVE.get(e.fact.state) == "pending"
    if queued and e.journal in ("failed", "lost"):
        return Verdict("pending", f"{e.journal}, and queued again at the scheduler")
    return Verdict(e.journal)


def _live(e: Evidence, says: JobState, word: str) -> Verdict:
    if word == "alive":  # the supervisor lives; whether this job of its has started is in the journal
        return Verdict("running") if e.journal == "running" else Verdict("pending", _waits_for(e))
    if says == "pending":
        reason = e.fact.reason if e.fact else None
        if reason in (None, "", "None", "Dependency"):
            reason = _waits_for(e) or reason
        return Verdict("pending", reason)
    if e.journal == "running":
        return Verdict("running", "suspended by the scheduler" if word in ("SUSPENDED", "STOPPED") else None)
    return Verdict("running", "starting")


def _waits_for(e: Evidence) -> str | None:
    waiting = [name for name, state in (e.parents or {}).items() if state != "succeeded"]
    return f"waits for {', '.join(waiting)}" if waiting else None


def _over(e: Evidence, word: str) -> Verdict:
    """The scheduler has no more of it, and the job could not tell its own end."""
    bad = [name for name, state in (e.parents or {}).items() if state in _DEAD_PARENTS]
    if word == "CANCELLED" and bad and e.journal != "running":
        return Verdict("skipped", f"{', '.join(bad)} did not succeed")
    if word == "COMPLETED":
        return Verdict("unknown", "the scheduler says COMPLETED, but there is no result.json")
    state = _OVER.get(word)
    if state is None:
        return Verdict("unknown", f"the scheduler says {word}, the journal says {e.journal}")
    reason = e.fact.reason if e.fact and e.fact.reason not in (None, "", "None") else None
    return Verdict(state, f"the scheduler says {word}" + (f" ({reason})" if reason else ""))


def _supervisor_gone(e: Evidence) -> Verdict:
    """Local: nobody watches the job any more."""
    reason = (e.fact.reason if e.fact else None) or "its supervisor has ended"
    if e.journal == "running" and e.worker_alive:
        return Verdict("unknown", f"{reason}, but its worker still runs")
    return Verdict("lost", reason)


def _without_scheduler(e: Evidence) -> Verdict:
    """No word from the scheduler: only a fresh sign of life counts."""
    said = e.unanswered or (e.fact.reason if e.fact else None) or "the scheduler knows nothing of it"
    if e.journal == "running" and e.heartbeat_age is not None and e.heartbeat_age < FRESH_S:
        return Verdict("running", f"by its heartbeat; {said}")
    if e.unanswered and e.journal != "running":
        return Verdict(e.journal, said)
    last = f"; last heartbeat {e.heartbeat_age:.0f} s ago" if e.heartbeat_age is not None else ""
    return Verdict("unknown", f"the journal says {e.journal}; {said}{last}")


def answer(states: list[JobState]) -> int:
    """The exit code of `status --exit-code`: 0 all succeeded, 8 something goes on, 1 the answer is no.

    `unknown` is no: it needs a person, and a script that waits for it would wait for ever.
    """
    if any(s in ("planned", "submitted", "pending", "running") for s in states):
        return 8
    return 0 if all(s == "succeeded" for s in states) else 1
