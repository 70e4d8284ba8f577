"""Where a stage's weights come from: what `from:` in a recipe means on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.runtime.errors import JobUserError
from latentctl.record import checkpoint
from latentctl.record.paths import RunPaths, StagePaths
from latentctl.record.plan import Plan
from latentctl.spec.stage import StageBase


@dataclass(frozen=True)
class _Reference:
    """`NAME`, `NAME@best` or `NAME@STEP`."""

    name: str
    tag: str | None

    @staticmethod
    def parse(text: str) -> _Reference:
        name, at, tag = text.rpartition("@")
        return _Reference(name, tag) if at else _Reference(text, None)


def resolve(run: RunPaths, plan: Plan, stage: StageBase) -> Path | str | None:
    """A directory, a Hub id, or None for the stage's random model.

    `model` is the recipe's own; `STAGE[@best|@STEP]` an earlier stage; `run:ID/STAGE[@...]` a stage of
    another run beside this one; else a directory, or a Hub id. Raises JobUserError where it is not there.
    """
    text, where = stage.from_ or "model", f"{stage.name}.from"
    if text == "model":
        return _existing(stage.model.path) if stage.model.path else None
    found = _producer(run, plan, text, where=where)
    return _existing(text) if found is None else _weights(*found, where=where)


def weights_of(run: RunPaths, text: str, *, where: str) -> Path:
    """The weights of another stage that a stage's settings name beside `from`: a divergence model. Raises
    JobUserError where they are not there."""
    found = _read(run, text, where=where)
    return Path(text) if found is None else _weights(*found, where=where)


def dataset_of(run: RunPaths, text: str, *, where: str) -> Path:
    """The data set that a stage's settings name: one that a stage wrote, or a file. Raises JobUserError."""
    found = _read(run, text, where=where)
    path = Path(text) if found is None else found[0].dataset
    if not path.is_file():
        raise JobUserError(f"{text}: there is no data set {path}", where=where)
    return path


def _read(run: RunPaths, text: str, *, where: str) -> tuple[StagePaths, _Reference] | None:
    plan = Plan.load(run.plan) if run.plan.exists() else None
    return None if plan is None else _producer(run, plan, text, where=where)


def _producer(run: RunPaths, plan: Plan, text: str, *, where: str) -> tuple[StagePaths, _Reference] | None:
    """The stage that a reference names, of this run or of another; None: it is a path, or a Hub id."""
    if text.startswith("run:"):
        return _other_run(run, text, where=where)
    ref = _Reference.parse(text)
    if ref.name not in [s for job in plan.jobs for s in job.stages]:
        return None
    return run.job(plan.job_of(ref.name).name).stage(ref.name), ref


def _existing(text: str) -> Path | str:
    path = Path(text).expanduser()
    return path.resolve() if path.is_dir() else text


def _other_run(run: RunPaths, text: str, *, where: str) -> tuple[StagePaths, _Reference]:
    run_id, slash, rest = text.removeprefix("run:").partition("/")
    if not (slash and run_id and rest):
        raise JobUserError(f"{text!r} is not of the form run:ID/STAGE or run:ID/STAGE@best", where=where)
    other = RunPaths(run.root.parent / run_id)
    if not other.plan.exists():
        raise JobUserError(f"no run {run_id} in {run.root.parent}", where=where, hint="latentctl status")
    ref = _Reference.parse(rest)
    plan = Plan.load(other.plan)
    stages = [s for job in plan.jobs for s in job.stages]
    if ref.name not in stages:
        raise JobUserError(f"run {run_id} has no stage {ref.name}; it has {', '.join(stages)}", where=where)
    return other.job(plan.job_of(ref.name).name).stage(ref.name), ref


def _weights(producer: StagePaths, ref: _Reference, *, where: str) -> Path:
    if ref.tag not in (None, "best"):
        return _step(producer, ref, where=where)
    if not producer.result.exists():
        raise JobUserError(
            f"stage {ref.name} has not finished: {producer.result} does not exist", where=where
        )
    folder = producer.best if ref.tag else producer.model
    if folder.is_dir():
        return folder
    if ref.tag:
        raise JobUserError(
            f"stage {ref.name} kept no best checkpoint",
            where=where,
            hint="say train.keep.best and train.eval_every there, or start from its last weights",
        )
    raise JobUserError(f"stage {ref.name} left no model: {folder} does not exist", where=where)


def _step(producer: StagePaths, ref: _Reference, *, where: str) -> Path:
    tag = ref.tag or ""
    if not tag.isdecimal():
        raise JobUserError(f"@{tag}: give @best or the number of a step", where=where)
    try:
        found = checkpoint.load(producer.checkpoint(int(tag)))
    except checkpoint.Damaged as exc:
        kept = ", ".join(str(s) for s in checkpoint.steps(producer)) or "none"
        raise JobUserError(
            f"stage {ref.name} has no whole checkpoint of step {tag} ({exc}); whole: {kept}",
            where=where,
            hint="train.keep.last says how many stay",
        ) from None
    if not found.model.is_dir():
        raise JobUserError(f"the checkpoint holds no exported model: {found.model}", where=where)
    return found.model
