"""A training's checkpoints: DeepSpeed's state, random streams, trainer state, and the weights as a plain
model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from jobs.methods.protocol import StageContext
from jobs.models.latent_file import read_latent
from jobs.runtime import checkpoints, distributed, rng
from jobs.runtime.checkpoints import Checkpoint
from jobs.runtime.errors import JobUserError
from jobs.train.engine import Engine
from jobs.train.state import TrainState


class Checkpoints:
    """Of one stage. Every method is called by all processes at the same step."""

    def __init__(self, ctx: StageContext, engine: Engine, export: Callable[[Path, int], None]) -> None:
        """`export(folder, step)` writes the plain model; a collective."""
        self._ctx = ctx
        self._engine = engine
        self._export = export
        self._hash = ctx.spec_hash

    def restore(self) -> TrainState | None:
        """Continue from the newest whole checkpoint; None where there is none. Raises JobUserError where it
        was written by another number of processes."""
        ctx = self._ctx
        if ctx.world.main:
            checkpoints.clean(ctx.paths)
        distributed.barrier()
        found = checkpoints.latest(ctx.paths, self._hash)
        step = distributed.broadcast(found.step if found else None)
        if step is None:
            ctx.report.rewind(0)
            return None
        found = checkpoints.load(ctx.paths.checkpoint(step), self._hash)
        state = TrainState.load(found.path)
        self._check_world(found, state)
        self._engine.load(found.path / "engine")
        rng.load(found.path, ctx.world.rank)
        ctx.report.rewind(state.step)
        ctx.report.event("resumed", step=state.step)
        return state

    def commit(self, state: TrainState, *, last: int) -> None:
        """Write a checkpoint, then remove what the keep policy lets go."""
        ctx = self._ctx
        checkpoints.commit(
            ctx.paths,
            state.step,
            ctx.attempt,
            self._hash,
            lambda folder: self._fill(folder, state),
            {"validation": state.validation},
            rank=ctx.world.rank,
            barrier=distributed.barrier,
        )
        if ctx.world.main:
            checkpoints.prune(ctx.paths, last, {state.best.step} if state.best else set())
        distributed.barrier()

    def publish(self, step: int, target: Path) -> None:
        """Make the model of the committed checkpoint `step` the stage's `model` or `best`; nothing where it
        is already.

        Files are linked, so that this costs no space where the file system knows links.
        """
        ctx = self._ctx
        if ctx.world.main and (read_latent(target) or {}).get("step") != step:
            source = ctx.paths.checkpoint(step) / "model"
            checkpoints.publish(ctx.paths, target, ctx.attempt, lambda part: _link(source, part))
        distributed.barrier()

    def _fill(self, folder: Path, state: TrainState) -> None:
        self._engine.save(folder / "engine")
        self._export(folder / "model", state.step)
        rng.save(folder, self._ctx.world.rank)
        if self._ctx.world.main:
            state.save(folder)
        distributed.barrier()  # nobody lists the files while rank 0 still writes

    def _check_world(self, found: Checkpoint, state: TrainState) -> None:
        size = self._ctx.world.size
        if state.world_size != size:
            raise JobUserError(
                f"the checkpoint of step {found.step} was written by {state.world_size} processes, "
                f"this job has {size}",
                hint=f"ask for {state.world_size} processes again, or start a new run from its weights: "
                f"from: {found.model}",
                where=str(found.path),
            )


def _link(source: Path, target: Path) -> None:
    def link(a: str, b: str) -> str:
        try:
            os.link(a, b)
        except OSError:
            shutil.copy2(a, b)
        return b

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
