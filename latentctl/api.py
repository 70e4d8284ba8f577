"""For notebooks and scripts: what the commands do, as functions.

    from latentctl import api

    runs = api.submit("shell-game.yaml", ["train.lr=1e-4"])
    api.wait(runs)
    pandas.DataFrame(api.results(runs))

Runs are named as on the command line: an id, a prefix, `@last`; `runs_dir` is `./runs` or LATENTCTL_RUNS_DIR
where it is unsaid. What a person can mend is raised as `latentctl.errors.UserError`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentctl.errors import UserError

if TYPE_CHECKING:
    from latentctl.record.plan import Plan
    from latentctl.spec.load import LoadedRecipe

__all__ = ["UserError", "cancel", "load", "plan", "results", "status", "submit", "wait"]


def load(recipe: str | Path, set: Sequence[str] = (), *, grid: Sequence[str] = ()) -> LoadedRecipe:
    """A validated recipe; `points` are the experiments that it stands for. `set` and `grid` as `--set` and
    `--grid`. Raises UserError with every problem."""
    from latentctl.spec.load import load_recipe

    return load_recipe(recipe, list(set), grid=tuple(grid))


def plan(
    recipe: str | Path, set: Sequence[str] = (), *, grid: Sequence[str] = (), cluster: str = "local"
) -> list[Plan]:
    """The jobs of each point, with their resources; nothing is created. Raises UserError."""
    from latentctl.launch.profile import profile_named
    from latentctl.plan.build import build_plan

    profile = profile_named(cluster)
    points = load(recipe, set, grid=grid).points
    return [build_plan(point.experiment, profile, "plan", "0" * 64) for point in points]


def submit(
    recipe: str | Path,
    set: Sequence[str] = (),
    *,
    grid: Sequence[str] = (),
    cluster: str = "local",
    runs_dir: str | Path | None = None,
    rerun: bool = False,
) -> list[str]:
    """Start a recipe, or every point of its sweep; the ids of the runs. The same thing submitted before is
    named and not started again, unless `rerun`. Raises UserError; then nothing was started."""
    from latentctl.launch.profile import profile_named
    from latentctl.launch.start import start
    from latentctl.launch.sweeps import start_sweep

    profile, loaded, root = profile_named(cluster), load(recipe, set, grid=grid), _root(runs_dir)
    if loaded.swept:
        return [started.run.id for started in start_sweep(loaded, profile, root, rerun=rerun).started]
    return [start(loaded.points[0], profile, root, loaded.recipe_bytes, rerun=rerun).run.id]


def status(
    runs: Iterable[str] | str | None = None, *, runs_dir: str | Path | None = None
) -> list[dict[str, Any]]:
    """State, jobs and progress of runs, as `latentctl status --json` has them; of all where none is named."""
    from latentctl.launch.observe import observe
    from latentctl.runs.index import all_runs, find_run

    root = _root(runs_dir)
    found = all_runs(root) if runs is None else [find_run(root, name) for name in _names(runs)]
    return [view.dump() for view in observe(found).views]


def wait(
    runs: Iterable[str] | str,
    *,
    runs_dir: str | Path | None = None,
    every: float = 5.0,
    timeout: float | None = None,
) -> list[dict[str, Any]]:
    """Until all have ended, or `timeout` seconds are over; their status then."""
    from latentctl.record.states import TERMINAL

    names = _names(runs)
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        seen = status(names, runs_dir=runs_dir)
        states = [job["state"] for run in seen for job in run["jobs"]]
        over = all(state in TERMINAL or state == "unknown" for state in states)
        if over or (end is not None and time.monotonic() >= end):
            return seen
        time.sleep(every if end is None else min(every, max(0.0, end - time.monotonic())))


def results(runs: Iterable[str] | str, *, runs_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """One flat record for each evaluation of runs or sweeps, as `latentctl report --csv` has them: for a data
    frame."""
    from latentctl.report.evals import collect, targets
    from latentctl.report.many import flat, fold

    return flat(fold(collect(targets(_root(runs_dir), _names(runs)))))


def cancel(run: str, *, runs_dir: str | Path | None = None) -> None:
    """Stop a run and all its processes. Raises UserError."""
    from latentctl.launch.observe import observe_one
    from latentctl.launch.stopping import cancel_run
    from latentctl.runs.index import find_run

    cancel_run(observe_one(find_run(_root(runs_dir), run)))


def _root(given: str | Path | None) -> Path:
    return Path(given or os.environ.get("LATENTCTL_RUNS_DIR") or "runs").expanduser().absolute()


def _names(runs: Iterable[str] | str) -> list[str]:
    return [runs] if isinstance(runs, str) else list(runs)
