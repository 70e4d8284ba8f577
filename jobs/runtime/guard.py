"""What a worker checks before it does anything: its code, its spec, its place, its parents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

import jobs
import latentctl
from jobs.data.plugins import load_plugins
from jobs.methods.protocol import World
from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import try_read_json
from latentctl.record.hashes import code_bytes, code_files, content_hash, spec_hash
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.spec import methods
from latentctl.spec.experiment import Experiment


def check_snapshot(run: RunPaths, modules: tuple[ModuleType, ...] = (latentctl, jobs)) -> None:
    """Raises JobUserError where the imported packages are not those of the run's snapshot."""
    code = run.code.resolve()
    for module in modules:
        found = Path(module.__file__ or "").resolve()
        if not found.is_relative_to(code):
            raise JobUserError(
                f"this process imports {module.__name__} from {found.parent}, "
                f"not from the run's snapshot {code}",
                hint="a job starts with PYTHONPATH=<run>/code PYTHONSAFEPATH=1; `latentctl retry` does that",
            )


def load_experiment(run: RunPaths) -> tuple[Experiment, str]:
    """The experiment of spec.json and its hash, with `plugins` as the files of the snapshot, imported.

    Raises JobUserError where spec.json is damaged, was changed after the submission, or does not fit the
    code.
    """
    spec = _read(run.spec)
    raw, written = spec.get("experiment"), spec.get("spec_hash")
    if not isinstance(raw, dict) or not isinstance(written, str):
        raise JobUserError("no experiment and spec_hash in it: damaged", where=str(run.spec))
    recorded = {"spec.json": written, "lock.json": (try_read_json(run.lock) or {}).get("spec_hash")}
    actual = spec_hash(raw)
    for name, value in recorded.items():
        if value is not None and value != actual:
            raise JobUserError(
                f"the experiment has the hash {actual[:12]}, {name} says {value[:12]}: it was changed "
                "after the submission",
                where=str(run.spec),
                hint="a run is what was submitted; change the recipe and submit that",
            )
    plugins = [str(run.code / "plugins" / Path(p).name) for p in raw.get("plugins", [])]
    load_plugins(plugins)
    methods.load_entry_points()
    for stage in raw.get("stages", []):
        if (method := stage.get("method")) not in methods.METHODS:
            raise JobUserError(
                f"stage {stage.get('name')}: nothing here brings the method {method!r}",
                hint="its package must be installed for this interpreter, or its file named under `plugins:`",
            )
    try:
        experiment = Experiment.model_validate(raw)
    except ValidationError as exc:
        raise JobUserError(f"does not fit the snapshot's code: {exc}", where=str(run.spec)) from exc
    return experiment.model_copy(update={"plugins": plugins}), actual


def check_content(run: RunPaths, plan: Plan) -> None:
    """Raises JobUserError where a file of the snapshot was changed, added or lost since the submission."""
    digests = ((at, hashlib.sha256(p.read_bytes()).hexdigest()) for at, p in code_files(run.code))
    if content_hash(_read(run.spec)["experiment"], code_bytes(digests)) != plan.content_hash:
        raise JobUserError(
            "the snapshot is not what was submitted: a file in it was changed, added or lost",
            where=str(run.code),
            hint="submit the recipe again; to change code, change it in your checkout",
        )


def load_plan(run: RunPaths, job: str) -> tuple[Plan, JobPlan]:
    """Raises JobUserError where the plan is damaged or knows no such job."""
    try:
        plan = Plan.load(run.plan)
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise JobUserError(f"the plan cannot be read: {exc}", where=str(run.plan)) from exc
    if job not in (known := [j.name for j in plan.jobs]):
        raise JobUserError(f"no job {job!r}; there are {', '.join(known)}", where=str(run.plan))
    return plan, plan.job(job)


def check_parents(run: RunPaths, job: JobPlan) -> None:
    """A scheduler may call a dependency satisfied that is not: see for ourselves. Raises JobUserError."""
    for parent in job.after:
        result = run.job(parent).result
        if _read(result, missing_ok=True) is None:
            raise JobUserError(
                f"job {job.name} needs job {parent}, which has not succeeded: {result} does not exist",
                hint=f"see `latentctl logs {run.id}` and `latentctl retry {run.id}`",
            )


def world_from_env(env: Mapping[str, str] = os.environ) -> World:
    """RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE; a lone process where unset. Raises JobUserError."""
    try:
        rank, size, local, local_size = (
            int(env.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        )
    except ValueError as exc:
        raise JobUserError(f"RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE: {exc}") from None
    if not (0 <= rank < size and 0 <= local < local_size <= size):
        raise JobUserError(f"impossible place: rank {rank} of {size}, local rank {local} of {local_size}")
    return World(rank, size, local, local_size)


def check_world(world: World, job: JobPlan) -> None:
    """As many processes as planned? A lone rank 0 would run another experiment. Raises JobUserError."""
    if world.size != job.world_size:
        raise JobUserError(
            f"job {job.name} is planned for {job.world_size} processes, {world.size} were started",
            hint="check tasks and nodes of the cluster profile and of the recipe's resources",
        )


def place(world: World, generators: int) -> World:
    """This process among those that train, or among the last `generators`, which generate for them."""
    trainers = world.size - generators
    if world.rank < trainers:
        return replace(world, size=trainers)
    return replace(world, rank=world.rank - trainers, size=generators, trainers=trainers)


def _read(path: Path, *, missing_ok: bool = False) -> Any:
    try:
        value = try_read_json(path)
    except (OSError, ValueError) as exc:
        raise JobUserError(f"cannot be read: {exc}", where=str(path)) from exc
    if value is None and not missing_ok:
        raise JobUserError("does not exist", where=str(path))
    if value is not None and not isinstance(value, dict):
        raise JobUserError("holds no mapping: damaged", where=str(path))
    return value
