"""A sweep: a set of ordinary runs, listed in `<runs_dir>/sweeps/<id>/sweep.json`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from latentctl.errors import Problem, UserError
from latentctl.launch import executor_for
from latentctl.launch.observe import handle_of, observe
from latentctl.launch.protocol import Batch, Handle
from latentctl.launch.start import Started, held_interrupts
from latentctl.plan.build import build_plan
from latentctl.record.atomic import together, write_json
from latentctl.record.journal import now
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.record.sweeps import SWEEPS, VERSION
from latentctl.runs import create
from latentctl.runs.snapshot import copy_code

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
    findings: list[Problem] = field(default_factory=list)
    """What the scheduler accepted but says it will never run."""


def start_sweep(
    recipe: Recipe,
    profile: ClusterProfile,
    runs_dir: Path,
    *,
    rerun: bool = False,
    parallel: int | None = None,
    gpu_hours: float | None = None,
) -> Sweep:
    """Submit every point; those that were submitted before are listed, not started again.

    The plan of every point is made before the first is submitted, so that a refusal leaves nothing. Where a
    later submission fails, what this call started is cancelled and removed. `parallel`: at most so many jobs
    of the sweep at once; `gpu_hours`: what all points may ask for, else UserError.
    """
    points = recipe.points
    if parallel is not None and profile.executor == "local":
        profile = profile.model_copy(update={"max_parallel": parallel})
    site = create.Site.of(points[0].experiment.plugins)
    identities = [create.identify(point, site) for point in points]
    plans = [
        build_plan(point.experiment, profile, identity.run_id, identity.content_hash)
        for point, identity in zip(points, identities, strict=True)
    ]
    seen = {} if rerun else create.listing(runs_dir)
    before = [create.existing(identity, runs_dir, seen) for identity in identities]
    if gpu_hours is not None:
        _within(gpu_hours, [p for p, old in zip(plans, before, strict=True) if not old])
    digest = hashlib.sha256("".join(i.content_hash for i in identities).encode()).hexdigest()
    sweep = Sweep(_free_id(runs_dir, f"{points[0].experiment.name}-{digest[:8]}", rerun=rerun))
    folder = runs_dir / SWEEPS / sweep.id
    executor = executor_for(profile)
    made_folder = not folder.exists()
    handles: list[Handle] = []
    with held_interrupts() as held:
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            with together(runs_dir):
                for point, identity, plan, old in zip(points, identities, plans, before, strict=True):
                    if old:
                        one = Started(old[-1], Plan.load(old[-1].plan), created=False)
                    else:
                        one = _prepare(recipe, point, identity, plan, profile, folder, rerun=rerun)
                    sweep.started.append(one)
                    if held.came:
                        raise KeyboardInterrupt
                _list(sweep, points, folder, parallel)
            new = [(s.run, s.plan) for s in sweep.started if s.created]
            if new:
                handles = executor.submit_all(new, Batch(sweep.id, folder, parallel))
            if held.came:
                raise KeyboardInterrupt
        except BaseException as error:
            _take_back([s.run for s in sweep.started if s.created], profile)
            if made_folder and not any(_of(s.run, folder) for s in sweep.started if not s.created):
                shutil.rmtree(folder, ignore_errors=True)
            if held.came and not isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt from error  # Ctrl-C ended the scheduler's command too
            if isinstance(error, OSError):
                raise create.disk_error(error, runs_dir) from error
            raise
    if findings := getattr(executor, "findings", None):
        sweep.findings = findings(_one_of_each(handles))
    return sweep


def _within(allowed: float, plans: Sequence[Plan]) -> None:
    """Raises UserError where the new points ask for more GPU-hours than that."""
    asked = sum(job.gpu_hours for plan in plans for job in plan.jobs)
    if asked > allowed:
        each = asked / len(plans)
        fit = f"{int(allowed // each)} of {len(plans)} points fit" if each else ""
        raise UserError(
            f"the sweep asks for {asked:g} GPU-hours at most, {allowed:g} are allowed",
            key="--max-gpu-hours",
            hint=f"{fit}; fewer points, a shorter resources.time, or a larger budget",
        )


def _prepare(
    recipe: Recipe,
    point: SweepPoint,
    identity: create.Identity,
    plan: Plan,
    profile: ClusterProfile,
    folder: Path,
    *,
    rerun: bool,
) -> Started:
    """The run of a new point, with the snapshot that all of them share."""
    code = _snapshot(identity.site, folder)

    def make_plan(run_id: str, content_hash: str) -> Plan:
        return plan if run_id == plan.run_id else build_plan(point.experiment, profile, run_id, content_hash)

    made = create.prepare(
        point, profile, folder.parents[1], recipe.recipe_bytes, make_plan, identity=identity, rerun=rerun,
        code=code,
    )  # fmt: skip
    return Started(made.run, made.plan, created=made.created)


def _snapshot(site: create.Site, folder: Path) -> Path:
    """The code of a sweep, once, whole; where another command makes the same sweep, that one's."""
    code = RunPaths(folder).code
    if not code.exists():
        building = code.with_name(f".code-{os.getpid()}")
        try:
            copy_code(site.files, building)
            building.rename(code)
        except OSError:
            shutil.rmtree(building, ignore_errors=True)
            if not code.exists():
                raise
    return code


def _list(sweep: Sweep, points: Sequence[SweepPoint], folder: Path, parallel: int | None) -> None:
    """sweep.json, before anything is submitted: whatever happens then, the points are known."""
    rows: list[dict[str, Any]] = []
    for point, one in zip(points, sweep.started, strict=True):
        parts = [{"run": one.run.id, "stage": p.stage, "varies": dict(p.varies)} for p in point.parts]
        rows += parts or [{"run": one.run.id, "varies": dict(point.varies)}]
    listed = {"version": VERSION, "id": sweep.id, "created": now(), "parallel": parallel, "points": rows}
    write_json(folder / "sweep.json", listed)


def _of(run: RunPaths, folder: Path) -> bool:
    """Whether the run uses the snapshot of this sweep."""
    return run.code.resolve().is_relative_to(folder.resolve())


def _one_of_each(handles: Sequence[Handle]) -> list[Handle]:
    """Of an array one element: what the scheduler says of it holds for all."""
    return list({handle.id.partition("_")[0]: handle for handle in reversed(handles)}.values())[::-1]


def _free_id(runs_dir: Path, base: str, *, rerun: bool) -> str:
    if not rerun:
        return base
    number = 1
    name = base
    while (runs_dir / SWEEPS / name).exists():
        number += 1
        name = f"{base}-r{number}"
    return name


def _take_back(created: Sequence[RunPaths], profile: ClusterProfile) -> None:
    """What got to the scheduler is cancelled, and the runs are gone."""
    executor = executor_for(profile)
    for view in observe(created).views:
        handles = [h for h in map(handle_of, view.jobs) if h is not None]
        if handles and view.state not in ("cancelled",):
            with contextlib.suppress(UserError):
                executor.cancel(view.run, handles)
    for run in created:
        with contextlib.suppress(FileNotFoundError):
            create.discard(run)
