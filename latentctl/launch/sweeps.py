"""A sweep: a set of ordinary runs, listed in `<runs_dir>/sweeps/<id>/sweep.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from latentctl.launch import executor_for
from latentctl.launch.observe import handle_of, observe
from latentctl.launch.start import Started, start
from latentctl.record.atomic import write_json
from latentctl.record.journal import now
from latentctl.record.sweeps import SWEEPS, VERSION
from latentctl.runs import create

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile
    from latentctl.spec.resolve import Part


class SweepPoint(create.Point, Protocol):
    """A point that knows what it varies: `spec.load.Point`."""

    @property
    def varies(self) -> dict[str, Any]: ...
    @property
    def parts(self) -> Sequence[Part]: ...


class Recipe(Protocol):
    """`spec.load.LoadedRecipe`."""

    @property
    def recipe_bytes(self) -> bytes: ...
    @property
    def points(self) -> Sequence[SweepPoint]: ...


@dataclass
class Sweep:
    """What `start_sweep` did."""

    id: str
    started: list[Started] = field(default_factory=list)


def start_sweep(recipe: Recipe, profile: ClusterProfile, runs_dir: Path, *, rerun: bool = False) -> Sweep:
    """Submit every point; those that were submitted before are listed, not started again.

    The plan of every point is made before the first is submitted, so that a refusal leaves nothing. Where a
    later submission fails, what this call started is cancelled and removed.
    """
    from latentctl.plan.build import build_plan

    identities = [create.identify(point) for point in recipe.points]
    for point, identity in zip(recipe.points, identities, strict=True):
        build_plan(point.experiment, profile, identity.run_id, identity.content_hash)
    digest = hashlib.sha256("".join(i.content_hash for i in identities).encode()).hexdigest()
    sweep = Sweep(_free_id(runs_dir, f"{recipe.points[0].experiment.name}-{digest[:8]}", rerun=rerun))
    rows: list[dict[str, Any]] = []
    try:
        for point, identity in zip(recipe.points, identities, strict=True):
            one = start(point, profile, runs_dir, recipe.recipe_bytes, rerun=rerun, identity=identity)
            sweep.started.append(one)
            parts = [{"run": one.run.id, "stage": p.stage, "varies": dict(p.varies)} for p in point.parts]
            rows += parts or [{"run": one.run.id, "varies": dict(point.varies)}]
        listed = {"version": VERSION, "id": sweep.id, "created": now(), "points": rows}
        write_json(runs_dir / SWEEPS / sweep.id / "sweep.json", listed)
    except BaseException:
        _take_back([s for s in sweep.started if s.created], profile)
        raise
    return sweep


def _free_id(runs_dir: Path, base: str, *, rerun: bool) -> str:
    if not rerun:
        return base
    number = 1
    name = base
    while (runs_dir / SWEEPS / name).exists():
        number += 1
        name = f"{base}-r{number}"
    return name


def _take_back(started: Sequence[Started], profile: ClusterProfile) -> None:
    executor = executor_for(profile)
    for view in observe([s.run for s in started]).views:
        handles = [h for h in map(handle_of, view.jobs) if h is not None]
        executor.cancel(view.run, handles)
        create.discard(view.run)
