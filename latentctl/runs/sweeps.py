"""Sweeps as they are on disk: `<runs_dir>/sweeps/<id>/sweep.json` lists runs and what each varies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from latentctl.record.atomic import try_read_json
from latentctl.record.paths import RunPaths
from latentctl.record.sweeps import SWEEPS
from latentctl.runs.index import all_runs, find_run


def find_sweep(runs_dir: Path, text: str) -> str | None:
    """The sweep of that id, or of that prefix where no run and no other sweep begins so; None where there
    is none."""
    folder = runs_dir / SWEEPS
    if not folder.is_dir() or not text or "/" in text:
        return None
    names = sorted(p.parent.name for p in folder.glob("*/sweep.json"))
    if text in names:
        return text
    matching = [name for name in names if name.startswith(text)]
    taken = any(run.id.startswith(text) for run in all_runs(runs_dir))
    return matching[0] if len(matching) == 1 and not taken else None


def sweep_points(runs_dir: Path, sweep: str) -> list[RunPaths]:
    """The runs of a sweep that are still there, in its order."""
    runs = dict.fromkeys(point.run.id for point in points_of(runs_dir, sweep))
    return [RunPaths(runs_dir / run) for run in runs if (runs_dir / run / "plan.json").is_file()]


def select(runs_dir: Path, names: list[str]) -> list[RunPaths]:
    """The runs that the names mean, a sweep's name standing for its points; without doubles, in the order
    given."""
    found: dict[str, RunPaths] = {}
    for text in names:
        sweep = find_sweep(runs_dir, text)
        chosen = [find_run(runs_dir, text)] if sweep is None else sweep_points(runs_dir, sweep)
        found.update({run.id: run for run in chosen})
    return list(found.values())


class SweepPoint(NamedTuple):
    """A point as sweep.json lists it."""

    run: RunPaths
    varies: dict[str, Any]
    stage: str | None = None
    """Where the run has several points: the one stage that is this one."""


def points_of(runs_dir: Path, sweep: str) -> list[SweepPoint]:
    """The points of a sweep, in its order."""
    rows = (try_read_json(runs_dir / SWEEPS / sweep / "sweep.json") or {}).get("points", [])
    return [SweepPoint(RunPaths(runs_dir / r["run"]), r.get("varies") or {}, r.get("stage")) for r in rows]
