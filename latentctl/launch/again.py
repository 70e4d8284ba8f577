"""Resubmitting a run: a new attempt of each job that has not succeeded."""

from __future__ import annotations

from latentctl.errors import Problem
from latentctl.launch import executor_for
from latentctl.launch.start import held_interrupts
from latentctl.record.journal import Journal
from latentctl.runs.view import JobView, RunView

_GOES_ON = ("submitted", "pending", "running")


def retryable(view: RunView) -> Problem | None:
    """Why a run cannot be resubmitted now; None if it can."""
    name = view.run.id
    if view.state == "succeeded":
        hint = "`latentctl submit RECIPE --rerun` runs it again from the start"
        return Problem(f"{name} has succeeded", hint=hint)
    active = [j for j in view.jobs if j.state in _GOES_ON]
    if active:
        jobs = ", ".join(f"{j.name} is {j.state}" for j in active)
        return Problem(f"{name} goes on: {jobs}", hint=f"`latentctl cancel {name}` first, or wait")
    doubtful = next((j for j in view.jobs if j.state == "unknown" and not _unwatched(j)), None)
    if doubtful is not None:
        hint = f"look at `latentctl show {name}`; `latentctl cancel {name}` makes sure that nothing runs"
        return Problem(
            f"{name}: whether job {doubtful.name} still runs is not known: {doubtful.why}", hint=hint
        )
    return None


def _unwatched(job: JobView) -> bool:
    """Local, its supervisor dead: the next one ends what is left of it before it starts anything."""
    local = (job.handle or {}).get("executor") == "local"
    return local and job.fact is not None and job.fact.state == "gone"


def resubmit(view: RunView) -> list[str]:
    """Submit the jobs without a result; returns their names. What was found lost is first written down.

    Raises UserError where the scheduler refuses; the run is then as it was.
    """
    from latentctl.spec.cluster import ClusterProfile

    executor = executor_for(ClusterProfile.model_validate(view.plan.cluster))
    with held_interrupts() as held:
        journal = Journal(view.run.journal)
        for job in view.jobs:
            if job.state == "lost":
                journal.append("lost", job=job.name, attempt=job.attempt or None, message=job.why)
        handles = executor.submit(view.run, view.plan)
        if held.came:
            executor.cancel(view.run, handles)
            raise KeyboardInterrupt
    return [h.job for h in handles]
