"""The evaluations of runs and sweeps as they are on disk. Nothing is left out silently: one without numbers
says why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentctl.errors import Exit, UserError
from latentctl.record.atomic import try_read_json
from latentctl.record.paths import RunPaths, StagePaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.record.sweeps import value_text
from latentctl.report.result import dataset
from latentctl.runs import view
from latentctl.runs.index import find_run
from latentctl.runs.sweeps import SweepPoint, find_sweep, points_of


@dataclass(frozen=True)
class Target:
    """What a name on the command line means: a run, and in it one stage or every evaluation."""

    run: RunPaths
    stage: str | None = None
    sweep: str | None = None
    varies: Mapping[str, Any] = field(default_factory=dict)
    """Of a point of a sweep: dotted key -> value."""
    shared: bool = False
    """The run has other points of the sweep too."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation stage of one run."""

    run: str
    stage: str
    paths: StagePaths | None
    """None: the run itself is gone."""
    numbers: Mapping[str, Any]
    """result.json; empty where there is none to read."""
    lacking: str = ""
    """Why there are no numbers, such as `running`."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """The stage in spec.json; empty where that is not there."""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """What the speed depends on: cluster, processes, GPUs, engine, batch, precision."""
    debug: bool = False
    sweep: str | None = None
    varies: Mapping[str, Any] = field(default_factory=dict)
    shared: bool = False
    """Its run has other points of the sweep too: stages `eval.1`, `eval.2`, ..."""
    disturbed: float | None = None
    """Share of the latent steps that were noised in the training that its weights come from."""

    @property
    def called(self) -> str:
        """Its stage as the recipe wrote it."""
        return self.stage.rpartition(".")[0] if self.shared else self.stage

    @property
    def point(self) -> dict[str, Any]:
        """What varies, without the seed."""
        return {k: v for k, v in self.varies.items() if k != "seed"}


def gpu_hours(aims: Iterable[Target]) -> view.GpuHours:
    """Of the runs that the targets are in, each once; those that are gone or damaged count nothing."""
    used = asked = 0.0
    for run in {aim.run.root: aim.run for aim in aims}.values():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            of = view.load(run).gpu_hours
            used, asked = used + of.used, asked + of.asked
    return view.GpuHours(used, asked)


def targets(runs_dir: Path, names: Iterable[str]) -> list[Target]:
    """RUN, RUN/STAGE, or a sweep, which stands for its points. Without doubles, in the order given. Raises
    UserError for a name that nothing has."""
    found: dict[tuple[Path, str | None], Target] = {}
    for text in names:
        name, _, stage = text.partition("/")
        sweep = find_sweep(runs_dir, name)
        points = [SweepPoint(find_run(runs_dir, name), {})] if sweep is None else points_of(runs_dir, sweep)
        for run, varies, own in points:
            one = own or stage or None
            found.setdefault((run.root, one), Target(run, one, sweep, varies, shared=own is not None))
    return list(found.values())


def collect(aims: Sequence[Target]) -> list[Evaluation]:
    """Every evaluation of the targets, each once. A point of a sweep that has none stays as a row that says
    so; raises UserError for such a run that was named itself, and where nothing is left."""
    found: dict[tuple[str, str], Evaluation] = {}
    for aim in aims:
        try:
            many = evaluations(aim)
        except UserError as error:
            if aim.sweep is None:
                raise
            why, where = error.problems[0].message, (aim.run.id, aim.stage or "-", None)
            many = [Evaluation(*where, {}, why, sweep=aim.sweep, varies=aim.varies)]
        for one in many:
            found.setdefault((one.run, one.stage), one)
    if not any(one.paths for one in found.values()):
        raise UserError("no evaluation in any of them", code=Exit.NOT_FOUND, kind="not_found")
    return list(found.values())


def evaluations(aim: Target) -> list[Evaluation]:
    """The evaluations of one run in plan order, finished or not. Raises UserError where the run cannot be
    read, has none, or not that one."""
    run = aim.run
    try:
        plan = Plan.load(run.plan)
        spec = try_read_json(run.spec) or {}
        stages = {s["name"]: s for s in (spec.get("experiment") or {}).get("stages", [])}
    except FileNotFoundError as error:
        raise UserError("the run is gone", where=run.id, code=Exit.NOT_FOUND, kind="not_found") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the run cannot be read: {error}", where=str(run.root)) from error
    found: list[Evaluation] = []
    others: list[str] = []
    for job in plan.jobs:
        for stage in job.stages:
            one = _evaluation(aim, plan, job, stage, stages.get(stage, {}))
            if one is None:
                others.append(stage)
            else:
                found.append(one)
    if aim.stage is not None:
        chosen = [one for one in found if one.stage == aim.stage]
        if not chosen:
            what = "is no evaluation" if aim.stage in others else "does not exist"
            names = ", ".join(one.stage for one in found) or "none"
            raise UserError(
                f"stage {aim.stage!r} of run {run.id} {what}",
                hint=f"its evaluations: {names}",
                code=Exit.NOT_FOUND,
                kind="not_found",
            )
        return chosen
    if not found:
        raise UserError(
            f"run {run.id} has no evaluation",
            hint=f"make one: latentctl eval --checkpoint {run.id} --dataset NAME",
            code=Exit.NOT_FOUND,
            kind="not_found",
        )
    return found


def _evaluation(
    aim: Target, plan: Plan, job: JobPlan, stage: str, spec: Mapping[str, Any]
) -> Evaluation | None:
    """None for a stage that is no evaluation."""
    paths = aim.run.job(job.name).stage(stage)
    lacking = ""
    try:
        numbers = try_read_json(paths.result)
        if numbers is not None and not isinstance(numbers, dict):
            raise ValueError
    except ValueError:
        numbers, lacking = None, "result.json is damaged"
    evaluates = spec.get("method") == "eval" or "accuracy" in (numbers or {})
    if not evaluates:
        return None
    if numbers is None:
        lacking = lacking or _state(aim.run, job.name)
    elif not isinstance(numbers.get("accuracy"), int | float):
        numbers, lacking = None, "result.json holds no accuracy"
    settings = spec.get("eval") or {}
    conditions = {
        "cluster": plan.cluster.get("name"),
        "processes": job.world_size,
        "gpus": job.nodes * job.gpus_per_node,
        "engine": (numbers or {}).get("engine"),
        **{key: settings.get(key) for key in ("max_batch", "max_batch_tokens", "precision")},
    }
    return Evaluation(
        aim.run.id,
        stage,
        paths,
        numbers or {},
        lacking,
        spec,
        conditions,
        plan.debug,
        aim.sweep,
        aim.varies,
        aim.shared,
        _disturbed(aim.run, plan, spec),
    )


def _disturbed(run: RunPaths, plan: Plan, spec: Mapping[str, Any]) -> float | None:
    """Of the stage of this run that the weights come from, where that is a training with latent steps."""
    source = str(spec.get("from") or "").partition("@")[0]
    job = next((job for job in plan.jobs if source in job.stages), None)
    if job is None:
        return None
    try:
        return (try_read_json(run.job(job.name).stage(source).result) or {}).get("disturbed")
    except ValueError:
        return None


def _state(run: RunPaths, job: str) -> str:
    """The state of a job whose stage has no result: by the run's own files, no scheduler is asked."""
    try:
        state = next(j.state for j in view.load(run).jobs if j.name == job)
    except (ValueError, KeyError, TypeError, OSError):
        return "unknown"
    return "no result.json" if state == "succeeded" else state


def labels(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Short names for (run or sweep, point, stage) that still tell the rows apart: what is the same in all of
    them is left out, a sweep's name where there is one sweep, and a run's hash where its name is enough."""
    runs = {run: run.rpartition("-")[0] or run for run, _, _ in rows}
    if len(set(runs.values())) < len(runs):
        runs = {run: run for run in runs}
    stages = {stage for _, _, stage in rows}
    sweeps = {run for run, point, _ in rows if point}
    names = []
    for run, point, stage in rows:
        named = len(runs) > 1 and not (point and len(sweeps) == 1)
        where = [part for part in (runs[run] if named else "", point) if part]
        names.append("/".join([*where, stage] if len(stages) > 1 or not where else where))
    return names


def point_text(varies: Mapping[str, Any]) -> str:
    """`lr=0.001, seed=1`: each key by its last part, or whole where two end alike."""
    return ", ".join(f"{name}={value_text(varies[key])}" for key, name in leaves(varies).items())


def leaves(keys: Iterable[str]) -> dict[str, str]:
    """Dotted key -> its last part, or the whole key where two end alike."""
    every = list(keys)
    ends = [key.rsplit(".", 1)[-1] for key in every]
    return {k: e if ends.count(e) == 1 else k for k, e in zip(every, ends, strict=True)}


def data_text(one: Evaluation) -> str:
    """`gsm8k test`: dataset and split; of an unfinished one as far as spec.json says."""
    said = one.spec.get("dataset")
    split = one.numbers.get("split") or (said.get("split") if isinstance(said, Mapping) else None)
    return " ".join(t for t in (dataset(one.numbers or one.spec), split) if t)


def ungraded(count: int) -> str:
    """In words; empty for none."""
    return f"{count} answer{'s' * (count > 1)} could not be graded: counted as wrong" if count else ""
