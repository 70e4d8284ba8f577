"""Which checkpoint a person means: a directory, or a stage of a run."""

from __future__ import annotations

from pathlib import Path

from latentctl.errors import Exit, UserError
from latentctl.record.atomic import try_read_json
from latentctl.record.paths import JUDGE, RunPaths, StagePaths
from latentctl.record.plan import Plan
from latentctl.runs.index import find_run


def resolve(text: str, runs_dir: Path) -> str:
    """What to write as a stage's `from`: an absolute directory, or `run:ID/STAGE[@best|@STEP]`.

    `text` is a directory, or `RUN[/STAGE][@best|@STEP]` with RUN as everywhere. Without a stage: the run's
    last one that left weights; with the name of a chain: the last of its stages that did. Raises UserError
    with code 3 where there is no such thing.
    """
    path = Path(text).expanduser()
    if path.is_dir() and not (path / "plan.json").is_file():
        if not (path / "config.json").is_file():
            raise UserError(
                "no checkpoint: the directory has no config.json",
                where=text,
                hint="give a Hugging Face directory, or RUN/STAGE",
                code=Exit.NOT_FOUND,
                kind="not_found",
            )
        return str(path.absolute())
    if path.exists() and not path.is_dir():
        raise UserError(
            "this is a file, not a checkpoint directory", where=text, code=Exit.NOT_FOUND, kind="not_found"
        )
    run, stage, which = _taken_apart(text, runs_dir)
    plan = Plan.load(run.plan)
    name = _last_with_weights(run, plan, stage)
    _check(run, plan, name, which)
    return f"run:{run.id}/{name}" + (f"@{which}" if which else "")


def _taken_apart(text: str, runs_dir: Path) -> tuple[RunPaths, str | None, str | None]:
    head, at, which = text.rpartition("@")
    if not at or not head:  # `@last` is a run, no mark of a checkpoint
        head, which = text, ""
    path = Path(head).expanduser()
    if (path / "plan.json").is_file() and path.resolve().parent == runs_dir.resolve():
        return RunPaths(runs_dir / path.resolve().name), None, which or None
    name, _, stage = head.removeprefix("run:").partition("/")
    return find_run(runs_dir, name), stage or None, which or None


def _last_with_weights(run: RunPaths, plan: Plan, asked: str | None) -> str:
    """The stage that is `asked` for; of several that it may mean, the last one with weights."""
    stages = [s for job in plan.jobs for s in job.stages]
    meant = stages if asked is None else [s for s in stages if _chain(s) == asked]
    if asked is not None and (asked in stages or not meant):
        return asked
    found = [s for s in meant if _generates(_paths(run, plan, s).model)]
    if not found:
        name = run.id if asked is None else f"{asked} of {run.id}"
        raise UserError(
            f"{name} has left no weights yet",
            hint=f"`latentctl status {run.id}`",
            code=Exit.NOT_FOUND,
            kind="not_found",
        )
    return found[-1]


def _generates(model: Path) -> bool:
    """Whether there is a model, and no divergence model."""
    return model.is_dir() and (try_read_json(model / "config.json") or {}).get("model_type") != JUDGE


def _chain(stage: str) -> str | None:
    """The name under which a recipe wrote the chain that this stage is a link of."""
    name, _, number = stage.rpartition(".")
    return name if number.isdecimal() else None


def _check(run: RunPaths, plan: Plan, stage: str, which: str | None) -> None:
    """The stage exists and has what is asked of it."""
    stages = [s for job in plan.jobs for s in job.stages]
    if stage not in stages:
        raise UserError(
            f"{run.id} has no stage {stage!r}",
            hint=f"its stages: {', '.join(stages)}",
            code=Exit.NOT_FOUND,
            kind="not_found",
        )
    paths = _paths(run, plan, stage)
    if which is None:
        folder = paths.model
    elif which == "best":
        folder = paths.best
    elif which.isdecimal():
        folder = paths.checkpoint(int(which))
    else:
        raise UserError(f"@{which}: give @best or the number of a step")
    if not folder.is_dir():
        raise UserError(
            f"stage {stage} of {run.id} has left no {'weights' if which is None else f'checkpoint @{which}'}",
            where=str(folder),
            hint=f"`latentctl show {run.id}` says how far it came",
            code=Exit.NOT_FOUND,
            kind="not_found",
        )


def _paths(run: RunPaths, plan: Plan, stage: str) -> StagePaths:
    return run.job(plan.job_of(stage).name).stage(stage)


def model_of(run_id: str, stage: str, runs_dir: Path) -> dict | None:
    """The model block of a stage in that run's spec.json."""
    spec = try_read_json(RunPaths(runs_dir / run_id).spec) or {}
    stages = (spec.get("experiment") or {}).get("stages", [])
    return next((s.get("model") for s in stages if s.get("name") == stage), None)
