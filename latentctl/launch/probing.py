"""`check --deep`: what a compute node sees of a recipe, by a short job that is a run like any other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentctl.errors import UserError
from latentctl.launch.observe import executor_of, handle_of, observe_one
from latentctl.launch.start import start
from latentctl.record.atomic import try_read_json
from latentctl.record.findings import Finding
from latentctl.record.paths import RunPaths
from latentctl.runs.create import discard
from latentctl.runs.view import RunView

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile
    from latentctl.spec.load import LoadedRecipe

TIME = "5m"
"""Asked for; it takes about one, most of which is a cold import of torch from a network file system."""
_STAGE = "probe"
_POLL_S = {"slurm": 3.0, "local": 0.3}


def recipe_of(recipe: LoadedRecipe) -> dict[str, Any]:
    """The recipe of the probe: one GPU where the first point asks for any."""
    experiment = recipe.points[0].experiment
    gpus = min(1, max(s.resources.gpus for s in experiment.stages))
    return {
        "name": f"probe-{experiment.name}"[:60].rstrip("-._"),
        "method": _STAGE,
        "model": {"init": {}},
        "plugins": experiment.plugins,
        _STAGE: {"recipe": experiment.dump()},
        "resources": {"gpus": gpus, "tasks": 1, "time": TIME},
    }


def run_probe(
    recipe: LoadedRecipe,
    profile: ClusterProfile,
    runs_dir: Path,
    say: Callable[[RunView], None],
    known: Collection[Finding] = (),
) -> Iterator[Finding]:
    """Submit it, wait for it, tell what it found otherwise than what is `known`; a run that went well is
    removed. `say` sees it now and then.

    Whatever interrupts this takes the job back. Raises UserError where it cannot be submitted.
    """
    from latentctl.spec.load import load_mapping

    loaded = load_mapping(recipe_of(recipe), [], "latentctl check --deep")
    submitted: list[RunPaths] = []
    try:
        started = start(
            loaded.points[0], profile, runs_dir, loaded.recipe_bytes, rerun=True, published=submitted.append
        )
        yield from (Finding("warning", "probe", p.message, p.hint) for p in started.findings)
        view = _wait(started.run, say, _POLL_S[profile.executor])
    except BaseException:
        for run in submitted:
            _take_back(run)
        raise
    yield from _findings(view, profile, known)


def _take_back(run: RunPaths) -> None:
    last = observe_one(run)
    handles = [h for job in last.jobs if (h := handle_of(job)) is not None]
    with contextlib.suppress(UserError):
        executor_of(last.plan).cancel(run, handles)


def _wait(run: RunPaths, say: Callable[[RunView], None], every: float) -> RunView:
    while True:
        view = observe_one(run)
        say(view)
        if view.done:
            return view
        time.sleep(every)


def _findings(view: RunView, profile: ClusterProfile, known: Collection[Finding]) -> Iterator[Finding]:
    job = view.jobs[-1]
    if view.state != "succeeded":
        said = job.failure
        message = (said.message if said else None) or job.why or "it left no word"
        hint = (said.hint if said else None) or f"latentctl explain {view.run.id}"
        yield Finding("error", "probe", f"the job {view.state}: {message}", hint)
        return
    found = try_read_json(view.run.job(job.name).stage(_STAGE).result) or {}
    node = found.get("machine") or {}
    yield Finding("ok", "node", _node(node, view))
    yield from (Finding("error", "node", problem) for problem in node.get("problems") or [])
    if profile.gpus_per_node and not (node.get("torch") or {}).get("gpus") and job.plan.gpus_per_node:
        yield Finding("error", "node", "the job asked for a GPU, and torch sees none", "latentctl doctor")
    seen = [Finding(**row) for row in found.get("findings") or []]
    said = {(f.level, f.message) for f in known}  # of several kinds of points `where` says which
    news = [f for f in seen if (f.level, f.message) not in said]
    if len(news) < len(seen):
        yield Finding("ok", "node", f"{len(seen) - len(news)} of {len(seen)} findings are the same as here")
    yield from (Finding(f.level, f"on the node: {f.where}", f.message, f.hint) for f in news)
    discard(view.run)


def _node(node: dict[str, Any], view: RunView) -> str:
    """`n17 in 24 s: 1 × NVIDIA H100 80GB, 80,994 MB; Python 3.12.3, torch 2.13.0; 1,200 GiB free for
    runs`."""
    gpus = (node.get("torch") or {}).get("gpus") or []
    named = f"{len(gpus)} × {gpus[0]['name']}, {gpus[0]['memory_mb']:,} MB" if gpus else "no GPU"
    seconds = sum(a.seconds or 0 for a in view.jobs[-1].attempts)
    free = (node.get("free") or {}).get("runs", 0) / 2**30
    return (
        f"{node.get('host')} in {seconds:.0f} s: {named}; Python {node['python']['version']}, "
        f"torch {node['versions'].get('torch')}; {free:,.0f} GiB free for runs"
    )
