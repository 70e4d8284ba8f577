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
    """The newest `submitted` event of a job: it holds `executor` and `id`."""
    found = [e for e in events if e.get("job") == job and e["event"] == "submitted" and "id" in e]
    return max(found, key=lambda e: int(e.get("attempt") or 0), default=None)
