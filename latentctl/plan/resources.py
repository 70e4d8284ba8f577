"""What a stage asks for, resolved against what the cluster profile gives."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from latentctl.errors import Problem
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.engine import EngineSpec
from latentctl.spec.methods import METHODS
from latentctl.spec.resources import ResourcesSpec
from latentctl.spec.stage import StageBase


@dataclass(frozen=True)
class Needs:
    """Resolved resources of a stage. Consecutive stages with equal needs may share a job."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    cpus_per_task: int | None
    mem_mb: int | None
    time_s: int
    interpreter: str
    generators: int


def role(stage: StageBase) -> str:
    """`train` or `eval`: which of the profile's interpreters runs the stage."""
    return METHODS[stage.method].role


def interpreter(profile: ClusterProfile, of: str) -> str:
    """The Python of a role: the profile's, else the one that runs latentctl. Paths are made absolute: jobs
    run elsewhere."""
    given = profile.interpreter.train if of == "train" else profile.interpreter.eval
    if given is None:
        return sys.executable
    return os.path.abspath(os.path.expanduser(given)) if "/" in given else given


def _gpus_of_one(stage: StageBase) -> int:
    """GPUs that a process of this stage uses, where it has any."""
    return stage.settings.tensor_parallel if isinstance(stage.settings, EngineSpec) else 1


def needs(stage: StageBase, profile: ClusterProfile, *, debug: bool = False) -> Needs:
    """Defaults filled in from the profile; debug asks for one process."""
    asked, each = stage.resources, _gpus_of_one(stage)
    return Needs(
        nodes=1 if debug else asked.nodes,
        tasks_per_node=1 if debug else asked.tasks_per_node(each),
        gpus_per_node=min(asked.gpus, each) if debug else asked.gpus,
        cpus_per_task=asked.cpus or profile.cpus,
        mem_mb=asked.mem or profile.mem,
        time_s=asked.time or profile.time,
        interpreter=interpreter(profile, role(stage)),
        generators=0 if debug else stage.settings.generators,
    )


def _duration(seconds: int) -> str:
    """`1d 12h`, `30m`, `90s`: as a person would say it."""
    parts, rest = [], seconds
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def refusals(stage: StageBase, profile: ClusterProfile) -> list[Problem]:
    """Why this stage cannot run on this cluster; empty if it can. Nothing is queued that could never
    start."""
    asked: ResourcesSpec = stage.resources
    key = f"stages.{stage.name}.resources"
    where = f"cluster {profile.name}"
    found: list[Problem] = []

    def refuse(name: str, message: str, hint: str) -> None:
        found.append(Problem(message, where, f"{key}.{name}", hint))

    if profile.executor == "local" and asked.nodes > 1:
        refuse(
            "nodes",
            f"{asked.nodes} nodes asked, but the local executor has this machine alone",
            "use `--cluster NAME` of a Slurm profile (`latentctl clusters list`), or more resources.tasks",
        )
    elif profile.max_nodes is not None and asked.nodes > profile.max_nodes:
        refuse(
            "nodes",
            f"{asked.nodes} nodes asked, at most {profile.max_nodes} allowed",
            "lower resources.nodes",
        )
    if asked.gpus > profile.gpus_per_node:
        have = profile.gpus_per_node
        hint = f"lower resources.gpus, or correct gpus_per_node in cluster/{profile.name}.yaml"
        refuse("gpus", f"{asked.gpus} GPUs per node asked, a node has {have}", hint)
    if asked.gpus and asked.tasks and asked.tasks > asked.gpus:
        refuse("tasks", f"{asked.tasks} processes for {asked.gpus} GPUs", "a process needs a GPU of its own")
    time = asked.time or profile.time
    if profile.max_time is not None and time > profile.max_time:
        limit = _duration(profile.max_time)
        refuse(
            "time",
            f"{_duration(time)} asked, at most {limit} allowed",
            f"set resources.time to {limit} or less",
        )
    return found
