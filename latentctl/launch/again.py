"""Resubmitting a run: a new attempt of each job that has not succeeded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from latentctl.errors import Problem
from latentctl.launch import executor_for
from latentctl.launch.observe import observe
from latentctl.launch.protocol import Batch
from latentctl.launch.start import held_interrupts
from latentctl.launch.stopping import cancel_runs
from latentctl.record import ledger
from latentctl.record.atomic import try_read_json
from latentctl.record.journal import Journal, read
from latentctl.record.states import TERMINAL, fold
from latentctl.record.sweeps import SWEEPS, membership
from latentctl.runs.view import JobView, RunView

_ENDED = TERMINAL - {"succeeded"}
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


def resubmit(views: Sequence[RunView], runs_dir: Path) -> dict[str, list[str]]:
    """Submit the jobs without a result of each run; returns their names. What was found lost is first written
    down. Runs of one sweep go together.

    Raises UserError where the scheduler refuses; runs that were to go together are then as they were.
    """
    sweeps = membership(runs_dir)
    groups: dict[str, list[RunView]] = {}
    for view in views:
        sweep = (sweeps.get(view.run.id) or {}).get("sweep")
        cluster = json.dumps(view.plan.cluster, sort_keys=True)
        groups.setdefault(f"{sweep} {cluster}" if sweep else view.run.id, []).append(view)
    done: dict[str, list[str]] = {}
    for group in groups.values():
        sweep = (sweeps.get(group[0].run.id) or {}).get("sweep")
        done |= _together(group, _batch(runs_dir / SWEEPS / sweep) if sweep and len(group) > 1 else None)
    return done


def _write_down(view: RunView) -> None:
    """Ends of which only the scheduler knew: the new submission must outrank them, and the old one is then
    told from it."""
    events = list(read(view.run.journal))
    for job in view.jobs:
        if job.state in _ENDED and fold(events, job.name)[0] not in TERMINAL:
            Journal(view.run.journal).append(
                job.state, job=job.name, attempt=job.attempt or None, message=job.why
            )


def _batch(folder: Path) -> Batch:
    """With the limit that the sweep was submitted with."""
    return Batch(folder.name, folder, (try_read_json(folder / "sweep.json") or {}).get("parallel"))


def _together(views: Sequence[RunView], batch: Batch | None) -> dict[str, list[str]]:
    from latentctl.spec.cluster import ClusterProfile

    executor = executor_for(ClusterProfile.model_validate(views[0].plan.cluster))
    waiting = {v.run.id: [job.name for job in ledger.unfinished(v.run, v.plan)] for v in views}
    with held_interrupts() as held:
        for view in views:
            _write_down(view)
        if batch is not None:
            executor.submit_all([(v.run, v.plan) for v in views], batch)
        else:
            executor.submit(views[0].run, views[0].plan)
        if held.came:
            cancel_runs(observe([view.run for view in views]).views)
            raise KeyboardInterrupt
    return waiting
