"""The table of `status`: runs, their jobs, sweeps as groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from latentctl.report import progress
from latentctl.report.text import Column, duration, table
from latentctl.runs.settled import Settled
from latentctl.runs.view import JobView, RunView

_HEAD = (
    Column("RUN", elastic=True, least=20),
    Column("STATE", least=9),
    Column("JOB", elastic=True, least=5),
    Column("STEP", right=True, least=5),
    Column("ETA", right=True, least=3),
    Column("METRIC", elastic=True, least=8),
)


def status_table(
    views: Sequence[RunView | Settled],
    *,
    sweeps: Mapping[str, Mapping[str, Any]] | None = None,
    jobs: bool = False,
    width: int = 80,
    colour: bool = False,
) -> str:
    """One row per run, with `jobs` one per job too. `sweeps`: run id -> {"sweep": id, "varies": {...}}."""
    rows: list[list[str]] = []
    seen: set[str] = set()
    for view in views:
        sweep = (sweeps or {}).get(view.run.id, {}).get("sweep")
        if sweep is None:
            rows += _run(view, jobs=jobs)
        elif sweep not in seen:
            seen.add(sweep)
            places = {run: i for i, run in enumerate(sweeps or {})}
            points = [v for v in views if (sweeps or {}).get(v.run.id, {}).get("sweep") == sweep]
            points.sort(key=lambda v: places[v.run.id])
            rows += _sweep(sweep, points, sweeps or {}, jobs=jobs)
    return table(_HEAD, rows, width=width, colour=colour)


def _sweep(
    sweep: str, points: Sequence[RunView | Settled], sweeps: Mapping[str, Mapping[str, Any]], *, jobs: bool
) -> list[list[str]]:
    """A heading that counts, then the points by what varied."""
    states = Counter(p.state for p in points)
    counted = ", ".join(f"{n} {state}" for state, n in states.most_common())
    rows = [[f"sweep {sweep}", "", f"{len(points)} points", "", "", counted]]
    for view in points:
        varies = sweeps[view.run.id].get("varies") or {}
        label = " ".join(f"{k.rsplit('.', 1)[-1]}={v}" for k, v in varies.items())
        first, *rest = _run(view, jobs=jobs)
        rows.append([f"  {view.run.id[-8:]} {label}", *first[1:]])
        rows += [[f"  {r[0]}", *r[1:]] for r in rest]
    return rows


def _run(view: RunView | Settled, *, jobs: bool) -> list[list[str]]:
    if isinstance(view, Settled):
        return [view.row]
    if jobs and len(view.jobs) > 1:
        head = [view.run.id, view.state, "", "", "", _age(view)]
        return [head, *(_job(j, indent="  ") for j in view.jobs)]
    return [run_row(view)]


def run_row(view: RunView) -> list[str]:
    """A run in one row, by the job to look at."""
    return [view.run.id, view.state, *_job(progress.current(view))[2:]]


def _job(job: JobView, indent: str = "") -> list[str]:
    note = job.why or (progress.outcome(job) if job.state == "succeeded" else progress.metric(job.heartbeat))
    if job.state == "failed" and job.failure and job.failure.message:
        note = job.failure.message
    name = progress.stage(job)
    label = f"{indent}{job.name}" if indent else ""
    return [label, job.state, name, progress.steps(job), progress.eta(job), note]


def _age(view: RunView) -> str:
    import time

    return f"{duration(time.time() - view.created)} old"
