"""`plan.json`: what is to run, readable without pydantic: the entry on a compute node has only the stdlib."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from latentctl.record.atomic import read_json, write_json

VERSION = 1
EXIT_REQUEUE = 85
"""A worker's exit code: checkpointed, wants more time."""


@dataclass(frozen=True)
class JobPlan:
    """One submission with its resources. All quantities are resolved against the cluster profile."""

    name: str
    stages: list[str]
    after: list[str]
    """Jobs that must have succeeded."""
    role: Literal["train", "eval"]
    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    cpus_per_task: int | None
    mem_mb: int | None
    """Per node."""
    time_s: int
    interpreter: str
    """Python that runs `-m jobs.worker`."""
    generators: int = 0
    """The last so many processes generate for the others, which train."""

    @property
    def world_size(self) -> int:
        return self.nodes * self.tasks_per_node

    @property
    def gpus_per_task(self) -> int:
        """Each process sees so many of its node's GPUs; 1 also where there are none."""
        return max(1, self.gpus_per_node // self.tasks_per_node)

    @property
    def gpu_hours(self) -> float:
        """Asked for: GPUs × time limit."""
        return self.nodes * self.gpus_per_node * self.time_s / 3600


@dataclass(frozen=True)
class Plan:
    """The jobs of one run, in an order that respects `after`."""

    run_id: str
    content_hash: str
    cluster: dict[str, Any]
    """The resolved cluster profile (`ClusterProfile.model_dump`)."""
    jobs: list[JobPlan]
    debug: bool = False
    """`submit --debug`: two steps, four rows."""
    version: int = VERSION
    extra: dict[str, Any] = field(default_factory=dict)

    def job(self, name: str) -> JobPlan:
        return next(j for j in self.jobs if j.name == name)

    def job_of(self, stage: str) -> JobPlan:
        return next(j for j in self.jobs if stage in j.stages)

    def save(self, path: Path) -> None:
        write_json(path, {**vars(self), "jobs": [vars(job) for job in self.jobs]})

    @staticmethod
    def load(path: Path) -> Plan:
        raw = read_json(path)
        if raw.get("version") != VERSION:
            raise ValueError(
                f"{path}: version {raw.get('version')} of plan.json, this latentctl reads {VERSION}"
            )
        return Plan(**{**raw, "jobs": [JobPlan(**j) for j in raw["jobs"]]})
