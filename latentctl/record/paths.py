"""Every path of a run, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

COMMITTED = "COMMITTED"
JUDGE = "latentctl-divergence"
"""The `model_type` in the config.json of a divergence model, which is no language model."""


@dataclass(frozen=True)
class StagePaths:
    """`<run>/jobs/<job>/stages/<stage>/`: what one stage of a job leaves behind."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}"

    @property
    def model(self) -> Path:
        """The exported plain Hugging Face directory of the last weights, with `latent.json` beside."""
        return self.root / "model"

    @property
    def best(self) -> Path:
        """The exported plain Hugging Face directory of the best weights by the recipe's metric."""
        return self.root / "best"

    @property
    def samples(self) -> Path:
        return self.root / "samples.jsonl"

    @property
    def traces(self) -> Path:
        """What each latent step of the traced samples said; see `jobs/generate/README.md`."""
        return self.root / "traces.jsonl"

    @property
    def rollouts(self) -> Path:
        """Some groups of rollouts that a policy was trained on, as rows of samples."""
        return self.root / "rollouts.jsonl"

    @property
    def dataset(self) -> Path:
        """What a stage made for others to train on."""
        return self.root / "dataset.jsonl"

    @property
    def evaluation(self) -> Path:
        """What a divergence model was measured to be: `jobs/methods/divergence/measures.py`."""
        return self.root / "evaluation.json"

    @property
    def calibration(self) -> Path:
        """The entropy thresholds that a stage of the method `calibrate` found."""
        return self.root / "calibration.json"

    def rank_samples(self, rank: int) -> Path:
        """Each rank of a data-parallel eval appends here; rank 0 merges into `samples`."""
        return self.root / "samples" / f"rank-{rank:05d}.jsonl"

    @property
    def result(self) -> Path:
        return self.root / "result.json"


@dataclass(frozen=True)
class AttemptPaths:
    """`<run>/jobs/<job>/attempts/<n>/`, made by an exclusive mkdir."""

    root: Path

    @property
    def number(self) -> int:
        return int(self.root.name)

    @property
    def info(self) -> Path:
        """Host, scheduler ids, start time, world size; written by the task of rank 0."""
        return self.root / "attempt.json"

    @property
    def end(self) -> Path:
        """Exit, failure class with its evidence; absent while the attempt runs, or when it was killed."""
        return self.root / "end.json"

    def stdout(self, rank: int) -> Path:
        return self.root / f"rank-{rank:05d}.out"

    def stderr(self, rank: int) -> Path:
        return self.root / f"rank-{rank:05d}.err"

    def failure(self, rank: int) -> Path:
        """Why this rank failed: written by the worker (classified) or, where it could not, by the entry."""
        return self.root / f"failure-{rank:05d}.json"

    def failures(self) -> list[Path]:
        return sorted(self.root.glob("failure-*.json"))

    def still(self, rank: int) -> Path:
        """Where this rank stood when it no longer went on; written by its entry."""
        return self.root / f"still-{rank:05d}.json"

    def rank_exit(self, rank: int) -> Path:
        """How this rank's worker ended; written by its entry. Rank 0 waits for all of them."""
        return self.root / f"exit-{rank:05d}.json"


@dataclass(frozen=True)
class JobPaths:
    """`<run>/jobs/<job>/`."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def scheduler(self) -> Path:
        return self.root / "scheduler"

    @property
    def attempts_dir(self) -> Path:
        return self.root / "attempts"

    def attempt(self, number: int) -> AttemptPaths:
        return AttemptPaths(self.attempts_dir / str(number))

    def attempts(self) -> list[AttemptPaths]:
        """Existing attempts, oldest first."""
        if not self.attempts_dir.is_dir():
            return []
        found = [p for p in self.attempts_dir.iterdir() if p.name.isdigit()]
        return [AttemptPaths(p) for p in sorted(found, key=lambda p: int(p.name))]

    @property
    def adjustments(self) -> Path:
        """What the job does otherwise than its recipe says: `record.adjust`."""
        return self.root / "adjust.json"

    @property
    def heartbeat(self) -> Path:
        return self.root / "heartbeat.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    def stage(self, name: str) -> StagePaths:
        return StagePaths(self.root / "stages" / name)

    def stages(self) -> list[StagePaths]:
        """Those that have begun."""
        return [StagePaths(path) for path in sorted(self.root.glob("stages/*"))]


@dataclass(frozen=True)
class RunPaths:
    """`<runs_dir>/<run id>/`."""

    root: Path

    @property
    def id(self) -> str:
        return self.root.name

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def spec(self) -> Path:
        return self.root / "spec.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def faults(self) -> Path:
        """The rules for failures, resolved with those of the cluster profile."""
        return self.root / "faults.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock.json"

    @property
    def code(self) -> Path:
        return self.root / "code"

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def supervisor_lease(self) -> Path:
        """Local executor: which process runs the jobs of this run."""
        return self.root / "supervisor" / "lease.json"

    @property
    def supervisor_log(self) -> Path:
        return self.root / "supervisor" / "log.txt"

    @property
    def jobs_dir(self) -> Path:
        return self.root / "jobs"

    def job(self, name: str) -> JobPaths:
        return JobPaths(self.jobs_dir / name)
