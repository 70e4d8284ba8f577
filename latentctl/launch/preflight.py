"""A recipe held against a cluster before anything is queued: the findings of `latentctl check --cluster`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentctl.errors import UserError
from latentctl.launch import checks, space
from latentctl.launch.cache_places import as_jobs_see_it, hub, unseen
from latentctl.launch.slurm_client import Refused, SlurmClient, SlurmError
from latentctl.launch.task import run_task
from latentctl.plan.build import build_plan
from latentctl.plan.kinds import Kind, kinds, merged
from latentctl.plan.preflight import judge
from latentctl.plan.resources import interpreter
from latentctl.record.findings import Finding, Level
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.record.sizes import size_text

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile
    from latentctl.spec.experiment import Experiment
    from latentctl.spec.load import LoadedRecipe

_FEW = 2 * 2**30
"""A run with less room than that does not come far."""
_NOTHING = 64 * 2**20
_KINDS = 16
"""Each takes a few seconds, for its tokenizer and its rows."""
GPU_MB = {
    "b200": 183_359, "h200": 143_771, "h100": 81_559, "l40s": 46_068, "l40": 46_068, "a40": 46_068,
    "a6000": 49_140, "l4": 23_034, "a10": 23_028, "t4": 15_360,
}  # fmt: skip
"""MiB that nvidia-smi shows of types that come in one size."""


def quick(experiments: Iterable[Experiment], profile: ClusterProfile, runs_dir: Path) -> Iterator[Finding]:
    """What costs nothing: room for the runs, and on a cluster whether models are where jobs look. Silent
    where all is well."""
    yield from (f for f in _room(runs_dir, 0) if f.level != "ok")
    if profile.executor != "slurm":
        return
    cache = hub(profile)
    absent = [n for n in _hub_models(experiments) if not any(_snapshots(cache, n).glob("*/config.json"))]
    for name in absent:
        yield Finding(
            "warning",
            "model",
            f"{name} is not in the jobs' cache, {cache}: the first job downloads it, "
            "on nodes that may have no network",
            f"latentctl prefetch RECIPE --cluster {profile.name}",
        )
    if absent:
        yield from _caches(profile)


def whole(recipe: LoadedRecipe, profile: ClusterProfile, runs_dir: Path) -> Iterator[Finding]:
    """Everything that can be known from here, as it becomes known; of every kind of points of a sweep."""
    for check in checks.profile(profile):
        yield _of_check(check)
    every = kinds(recipe.points)
    some = every[:_KINDS]
    if len(every) > len(some):
        text = f"its points are of {len(every)} kinds, of which the first {len(some)} were looked at"
        yield Finding("unknown", "sweep", text)
    yield from merged(list(_planned(some, profile)))
    yield from _caches(profile)
    if profile.container is not None:
        text = "models, tokenizer and rows: by the Python inside the image, not tried from here"
        yield Finding("unknown", "recipe", text, "--deep tries them in a job")
        yield from _room(runs_dir, 0)
        return
    try:
        found = run_task(
            "preflight",
            {
                "recipes": [k.point.experiment.dump() for k in some],
                "data_dir": profile.data_dir,
                **gpu(profile),
            },
            python=interpreter(profile, "train"),
            env=as_jobs_see_it(profile),
        )
    except UserError as error:
        yield from (Finding("error", p.where or "preflight", p.message, p.hint) for p in error.problems)
        return
    looked = list(zip(some, found["points"], strict=True))
    yield from merged([(kind.name, [Finding(**row) for row in one["findings"]]) for kind, one in looked])
    left_out = sum(k.count for k in every[_KINDS:]) * max(one["disk"] for _, one in looked)
    yield from _room(runs_dir, sum(kind.count * one["disk"] for kind, one in looked) + left_out)


def gpu(profile: ClusterProfile) -> dict[str, Any]:
    """What the profile says of a GPU's memory, for the verb `preflight`."""
    mb = profile.gpu_memory
    if mb is None and profile.gpu_type is not None:
        mb = GPU_MB.get(profile.gpu_type.lower().removeprefix("nvidia_"))
    return {"gpu_mb": mb, "here": profile.executor == "local"}


def _of_check(check: checks.Check) -> Finding:
    levels: dict[bool | None, Level] = {True: "ok", False: "error", None: "unknown"}
    hint = check.hint if check.ok is False else None
    return Finding(levels[check.ok], check.name, check.text, hint, check.cluster)


def _planned(some: Sequence[Kind], profile: ClusterProfile) -> Iterator[tuple[str, list[Finding]]]:
    """Of each kind of points: whether it can be planned, its jobs against the cluster's limits, and Slurm's
    own word on them."""
    ask = _live(profile) if profile.executor == "slurm" else None
    for kind in some:
        experiment = kind.point.experiment
        try:
            plan = build_plan(experiment, profile, experiment.name, "")
        except UserError as error:
            wrong = [Finding("error", p.key or "plan", p.message, p.hint) for p in error.problems]
            yield kind.name, wrong
        else:
            yield kind.name, list(ask(plan)) if ask else []


def _live(profile: ClusterProfile) -> Callable[[Plan], Iterator[Finding]] | None:
    """Holds plans against the live cluster. None where it does not answer: checks of the profile say so."""
    from latentctl.launch.slurm_script import flags

    client = SlurmClient(conf=profile.env.get("SLURM_CONF"))
    try:
        client.ping()
        facts = client.facts()
    except SlurmError:
        return None

    @cache
    def refusal(words: tuple[str, ...]) -> SlurmError | None:
        try:
            client.test_only(words)
        except SlurmError as error:
            return error
        return None

    def ask(plan: Plan) -> Iterator[Finding]:
        found = list(judge(plan, facts, profile))
        yield from found
        judged = {f.where for f in found if f.level == "error"}
        asked: set[tuple[str, ...]] = set()
        for job in plan.jobs:
            given = flags(RunPaths(Path(plan.run_id)), job, profile)
            words = tuple(f"--{k}={v}" for k, v in given.items() if k != "job-name")
            if words in asked or f"job {job.name}" in judged:
                continue
            asked.add(words)
            error = refusal(words)
            if isinstance(error, Refused):
                yield Finding("error", f"job {job.name}", error.problems[0].message, None, cluster=True)
            elif error is not None:
                yield Finding("unknown", f"job {job.name}", error.problems[0].message)

    return ask


def _caches(profile: ClusterProfile) -> Iterator[Finding]:
    for name in unseen(profile):
        yield Finding(
            "warning",
            name,
            f"is set in this shell, and jobs do not see it: they look in {hub(profile)}",
            f"env: {{{name}: ...}} in the cluster profile",
        )


def _room(runs_dir: Path, need: int) -> Iterator[Finding]:
    try:
        left = space.room(runs_dir)
    except OSError as error:
        yield Finding("error", "space", f"{runs_dir}: {error.strerror}", "--runs-dir")
        return
    asked = f"checkpoints need up to {size_text(need)}, " if need else ""
    text = f"{asked}{runs_dir} has {size_text(left.bytes)} {left.why}"
    hint = "train.keep, another --runs-dir, or `latentctl gc`"
    if left.bytes < max(need, _NOTHING):
        yield Finding("error", "space", text, hint)
    elif left.bytes < need + _FEW:
        yield Finding("warning", "space", text, hint)
    else:
        yield Finding("ok", "space", text)


def _snapshots(cache: Path, name: str) -> Path:
    return cache / f"models--{name.replace('/', '--')}" / "snapshots"


def _hub_models(experiments: Iterable[Experiment]) -> list[str]:
    stages = (stage for one in experiments for stage in one.stages)
    names = [s.model.path for s in stages if s.from_ in (None, "model") and s.model.path]
    ids = (n for n in names if n.count("/") == 1 and not n.startswith((".", "~", "/")))
    return [n for n in dict.fromkeys(ids) if not Path(n).is_dir()]
