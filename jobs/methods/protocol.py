"""What a method is to the worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from latentctl.record.paths import JobPaths, RunPaths, StagePaths
from latentctl.spec.experiment import Experiment
from latentctl.spec.stage import StageBase

if TYPE_CHECKING:
    from jobs.runtime.reporter import Reporter
    from jobs.runtime.signals import StopFlag


class Preempted(Exception):
    """Raised after a checkpoint was committed because `ctx.stop` was set: the worker exits with 85."""


@dataclass(frozen=True)
class World:
    """This process among the job's processes."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    gpus: int = 1
    """GPUs of each process, where it has any."""
    trainers: int = 0
    """More than 0: this process generates for so many that train; `rank` and `size` count its like."""

    @property
    def main(self) -> bool:
        """It writes what all share."""
        return self.rank == 0 and not self.trainers


@dataclass(frozen=True)
class StageContext:
    """All that a stage may know of its surroundings."""

    run: RunPaths
    job: JobPaths
    paths: StagePaths
    experiment: Experiment
    stage: StageBase
    attempt: int
    world: World
    source: Path | str | None
    """Where the weights come from, resolved: a directory, a Hub id; None: the stage's random `model.init`."""
    report: Reporter
    stop: StopFlag
    data_dir: str | None
    """The cluster profile's."""
    debug: bool = False
    """`submit --debug`: two steps, four rows."""
    spec_hash: str = ""
    """Of the whole experiment; a checkpoint carries it and is resumed by no other."""


class Method(Protocol):
    """A thin composition of rooms. Constructed in every process of the job."""

    def __init__(self, ctx: StageContext) -> None: ...

    def run(self) -> dict[str, Any]:
        """Do the stage, resuming what an earlier attempt left. Returns the numbers of result.json.

        Rank 0's count. Raises `Preempted` after committing a checkpoint, `jobs.runtime.errors.JobUserError`
        for what a person can mend.
        A method may also have `close()`: the worker calls it after `run` to free memory for the next stage;
        and one whose settings have `generators` has `generate()`, which those processes call instead.
        """
        ...
