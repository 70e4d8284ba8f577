"""What an executor is: the same five verbs on this machine and on Slurm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan


@dataclass(frozen=True)
class Handle:
    """A submitted job, as its scheduler knows it."""

    executor: str
    id: str
    """Slurm job id; for the local executor the supervisor's `pid:start:boot`."""
    job: str
    name: str | None = None
    """What the scheduler calls it (`name` of the `submitted` event): tells our job from one with a reused
    id."""


@dataclass(frozen=True)
class Fact:
    """What a scheduler says of one handle right now.

    `state` is the scheduler's own word, None if it knows nothing.
    """

    handle: Handle
    state: str | None
    reason: str | None = None
    nodes: str | None = None
    restarts: int | None = None
    exit: str | None = None
    source: str = ""
    """squeue, sacct, supervisor: which evidence."""


@dataclass(frozen=True)
class Batch:
    """Runs that are submitted together: the points of a sweep."""

    name: str
    folder: Path
    """`<runs_dir>/sweeps/<name>`."""
    parallel: int | None = None
    """At most so many of its jobs run at once; None: as many as the scheduler lets."""


class Executor(Protocol):
    """Made from a cluster profile; holds no state."""

    def preview(self, run: RunPaths, plan: Plan, job: JobPlan) -> str:
        """The exact sbatch script or local command that `submit` would use."""
        ...

    def submit(self, run: RunPaths, plan: Plan) -> list[Handle]:
        """Submit every job of the plan that has no result.json yet (`record.ledger.unfinished`).

        With its dependencies; the same call serves a first submission and a retry. All or nothing: what was
        submitted is cancelled again where a later job is refused. Journals each job with
        `record.ledger.submitting` and `.submitted`, from where the handles are read back. Raises UserError
        (code 4) in words.
        """
        ...

    def submit_all(self, runs: Sequence[tuple[RunPaths, Plan]], batch: Batch) -> list[Handle]:
        """`submit` for many runs, all or nothing, in as few calls of the scheduler as it allows."""
        ...

    def query(self, handles: Sequence[Handle]) -> list[Fact]:
        """One call of the scheduler for all handles, never one per job."""
        ...

    def cancel(self, run: RunPaths, handles: Sequence[Handle]) -> None:
        """Stop the jobs and all their processes, and journal `cancelled` for each job that had not ended."""
        ...

    def cancel_all(self, runs: Sequence[tuple[RunPaths, Sequence[Handle]]]) -> None:
        """`cancel` for many runs, in as few calls of the scheduler as it allows."""
        ...

    def scheduler_logs(self, run: RunPaths, job: JobPlan) -> list[Path]: ...
