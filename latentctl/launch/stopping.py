"""Stopping runs: at their scheduler, and in their journals."""

from __future__ import annotations

import json
from collections.abc import Sequence

from latentctl.launch.observe import executor_of, handle_of
from latentctl.launch.protocol import Handle
from latentctl.record.journal import Journal
from latentctl.record.paths import RunPaths
from latentctl.runs.view import JobView, RunView

_LIVE = ("planned", "submitted", "pending", "running", "unknown")


def cancel_runs(views: Sequence[RunView]) -> dict[str, list[str]]:
    """The jobs of each run that this stopped. Jobs that never got to the scheduler are struck from the plan
    in the journal."""
    live = {v.run.id: [job for job in v.jobs if job.state in _LIVE] for v in views}
    clusters: dict[str, list[RunView]] = {}
    for view in views:
        clusters.setdefault(json.dumps(view.plan.cluster, sort_keys=True), []).append(view)
    for group in clusters.values():
        asked = [(v.run, found) for v in group if (found := _handles(live[v.run.id]))]
        if asked:
            executor_of(group[0].plan).cancel_all(asked)
    for view in views:
        _strike(view.run, live[view.run.id])
    return {run: [job.name for job in jobs] for run, jobs in live.items()}


def cancel_run(view: RunView) -> list[str]:
    """The same for one."""
    return cancel_runs([view])[view.run.id]


def _handles(jobs: Sequence[JobView]) -> list[Handle]:
    return [handle for job in jobs if (handle := handle_of(job)) is not None]


def _strike(run: RunPaths, jobs: Sequence[JobView]) -> None:
    for job in jobs:
        if handle_of(job) is None:
            Journal(run.journal).append("cancelled", job=job.name, attempt=job.attempt or None)
