"""A training's checkpoints: DeepSpeed's state, random streams, trainer state, what its source of batches
keeps, and the weights as a plain model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from jobs.methods.protocol import StageContext
from jobs.models.latent_file import read_latent
from jobs.runtime import checkpoints, distributed, rng
from jobs.runtime.errors import JobUserError
from jobs.train.engine import Engine
from jobs.train.source import Source
from jobs.train.state import TrainState
from latentctl.record.atomic import try_read_json, write_json
from latentctl.record.checkpoint import Checkpoint, latest, load
from latentctl.record.paths import COMMITTED, StagePaths

_LAYOUT = "layout.json"


class Checkpoints:
    """Of one stage. Every method is called by all processes at the same step."""

    def __init__(
        self, ctx: StageContext, engine: Engine, export: Callable[[Path, int], None], source: Source
    ) -> None:
        """`export(folder, step)` writes the plain model; a collective."""
        self._source = source
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
        found = latest(ctx.paths, self._hash)
        step = distributed.broadcast(found.step if found else None)
        if step is None:
            ctx.report.rewind(0)
            return None
        found = load(ctx.paths.checkpoint(step), self._hash)
        state = TrainState.load(found.path)
        self._check_world(found, state)
        self._engine.load(found.path / "engine")
        rng.load(found.path, ctx.world.rank)
        self._source.load(found.path)
        ctx.report.rewind(state.step)
        ctx.report.event("resumed", step=state.step)
        return state

    def take_moments(self) -> str | None:
        """Begin with the moments of the checkpoint that the weights come from. Returns why not, where none
        fits; a collective."""
        own = self._engine.layout
        found, why = None, None
        if self._ctx.world.main:
            found = _checkpoint_of(self._ctx.source)
            held = try_read_json(found / _LAYOUT) if found else None
            differ = [k for k in own if held and held.get(k) != own[k]]
            if held is None:
                why = "the weights come from no training whose checkpoint is still there"
            elif "weights" in differ:
                why = "the model has other weights than the one it comes from, such as added markers"
            elif differ:
                why = ", ".join(f"{k} was {held[k]}, now it is {own[k]}" for k in differ)
        found, why = distributed.broadcast((found, why))
        if why is None:
            self._engine.take_moments(found / "engine")
        return why

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
        self._source.save(folder)
        if self._ctx.world.main:
            state.save(folder)
            write_json(folder / _LAYOUT, self._engine.layout)
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


def _checkpoint_of(source: Path | str | None) -> Path | None:
    """The committed checkpoint that an exported model belongs to: the folder around it, or where it is
    `model` or `best` of a stage, the one of its step."""
    if not isinstance(source, Path):
        return None
    step = (read_latent(source) or {}).get("step")
    places = [source.parent]
    if isinstance(step, int):
        places.append(StagePaths(source.parent).checkpoint(step))
    return next((p for p in places if (p / COMMITTED).is_file()), None)


def _link(source: Path, target: Path) -> None:
    def link(a: str, b: str) -> str:
        try:
            os.link(a, b)
        except OSError:
            shutil.copy2(a, b)
        return b

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
