"""Stopping a run: at its scheduler, and in its journal."""

from __future__ import annotations

from latentctl.launch.observe import executor_of, handle_of
from latentctl.record.journal import Journal
from latentctl.runs.view import RunView


def cancel_run(view: RunView) -> list[str]:
    """The jobs that this stopped. Jobs that never got to the scheduler are struck from the plan in the
    journal."""
    live = [j for j in view.jobs if j.state in ("planned", "submitted", "pending", "running", "unknown")]
    handles = [h for h in map(handle_of, live) if h is not None]
    if handles:
        executor_of(view.plan).cancel(view.run, handles)
    known = {h.job for h in handles}
    journal = Journal(view.run.journal)
    for job in live:
        if job.name not in known:
            journal.append("cancelled", job=job.name, attempt=job.attempt or None)
    return [j.name for j in live]
