"""A stage of an experiment and its surroundings, without a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.grade import samples
from jobs.methods.protocol import StageContext, World
from jobs.runtime.reporter import Reporter
from jobs.runtime.signals import StopFlag
from latentctl.record.paths import RunPaths
from latentctl.spec.experiment import Experiment

MODEL = {"init": {"arch": "gpt2", "hidden": 32, "heads": 4, "max_len": 256}}


def experiment(**stage: Any) -> Experiment:
    """One stage; a key that is None is left unsaid."""
    asked: dict[str, Any] = {
        "name": "eval",
        "method": "eval",
        "from": "model",
        "model": MODEL,
        "dataset": {"name": "shell-game", "split": "test", "limit": 12, "options": {"swaps": 2}},
        "prompt": {"form": "plain"},
        "sampling": {"temperature": 1.0, "samples": 2, "max_new_tokens": 12},
        "eval": {"max_batch": 3},
        **stage,
    }
    for block in ("eval", "calibrate"):
        if asked.get(block) is not None:
            asked[block] = {"engine": "transformers", **asked[block]}
    return Experiment.model_validate(
        {"name": "x", "stages": [{k: v for k, v in asked.items() if v is not None}]}
    )


def context(
    root: Path, exp: Experiment, *, attempt: int = 1, rank: int = 0, size: int = 1, **other: Any
) -> StageContext:
    run = RunPaths(root)
    job = run.job("main")
    (job.attempts_dir / str(attempt)).mkdir(parents=True, exist_ok=True)
    stage = exp.stages[-1]
    return StageContext(
        run=run,
        job=job,
        paths=job.stage(stage.name),
        experiment=exp,
        stage=stage,
        attempt=attempt,
        world=World(rank, size, rank, size),
        source=other.pop("source", None),
        report=Reporter(job, stage=stage.name, attempt=attempt, main=rank == 0),
        stop=StopFlag(),
        data_dir=None,
        **other,
    )


def texts(ctx: StageContext) -> dict[tuple[str, int], str]:
    return {samples.key(r): r["text"] for r in samples.read(ctx.paths.samples)}


def killed_after(patch: pytest.MonkeyPatch, count: int) -> None:
    """After so many rows, of samples and of traces alike, the process dies."""
    real, written = samples.Appender.add, 0

    def add(self: samples.Appender, row: Any) -> None:
        nonlocal written
        written += 1
        if written > count:
            raise KeyboardInterrupt
        real(self, row)

    patch.setattr(samples.Appender, "add", add)
