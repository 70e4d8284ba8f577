"""What was submitted, as the journal tells it: written by executors, read by everybody.

An executor calls `submitting` for every job before it talks to its scheduler and `submitted` right after each
acceptance, so that a crash between the two leaves a trace and the run id can be looked for at the scheduler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from latentctl.record import states
from latentctl.record.journal import Journal, read
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan


def unfinished(run: RunPaths, plan: Plan) -> list[JobPlan]:
    """The jobs that a submission is for: those without a result.json, in plan order."""
    return [job for job in plan.jobs if not run.job(job.name).result.exists()]


def coming_attempt(run: RunPaths, job: str, events: Iterable[dict[str, Any]] | None = None) -> int | None:
    """The attempt that events of a submission made now must carry; None for the first submission.

    A resubmission outranks the old end because it carries the number of the attempt to come (see
    `states.EVENTS`).
    """
    state, last, _ = states.fold(read(run.journal) if events is None else events, job)
    on_disk = max((a.number for a in run.job(job).attempts()), default=0)
    if state not in states.TERMINAL and not on_disk:
        return None
    return max(last, on_disk) + 1


def submitting(run: RunPaths, jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, int | None]:
    """Record the intent to submit jobs, each with what finds it again if nothing else is written. Returns the
    attempts to hand to `submitted` (None: the first submission)."""
    events = list(read(run.journal))
    attempts = {job: coming_attempt(run, job, events) for job in jobs}
    rows = []
    for job, data in jobs.items():
        whose = {"job": job} if attempts[job] is None else {"job": job, "attempt": attempts[job]}
        rows.append(("submitting", {**whose, **data}))
    Journal(run.journal).append_all(rows)
    return attempts


def submitted(
    journal: Journal, job: str, attempt: int | None, *, executor: str, id: str, **data: Any
) -> None:
    """Record that the scheduler accepted a job under `id`."""
    journal.append("submitted", job=job, attempt=attempt, executor=executor, id=id, **data)


def last_submission(events: Iterable[dict[str, Any]], job: str) -> dict[str, Any] | None:
    """The newest submission of a job, with its `executor` and `id`: its `submitted` event; where somebody
    gave the script to the scheduler by hand, the word of the entry that it started."""
    own = [e for e in events if e.get("job") == job and "id" in e]
    found = [e for e in own if e["event"] == "submitted"]
    known = {e["id"] for e in found}
    by_hand = [e for e in own if e["event"] == "started" and e.get("scheduler") == "slurm"]
    found += [{**e, "executor": "slurm"} for e in by_hand if e["id"] not in known]
    return max(found, key=_attempt, default=None)


def unanswered(events: Iterable[dict[str, Any]], job: str) -> dict[str, Any] | None:
    """The newest intent to submit a job to Slurm of which no answer was written down; None: there is none."""
    own = [e for e in events if e.get("job") == job]
    intent = max((e for e in own if e["event"] == "submitting" and "name" in e), key=_attempt, default=None)
    if intent is None:
        return None
    later = (e for e in own if e["event"] in _ANSWERS and _attempt(e) >= _attempt(intent))
    return None if any(later) else intent


_ANSWERS = ("submitted", "started", "cancelled")


def _attempt(event: dict[str, Any]) -> int:
    return int(event.get("attempt") or 0)
