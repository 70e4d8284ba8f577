"""What generates the rollouts of a stage: an engine in this process, or processes of their own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from jobs.generate.protocol import Engine, Request
from jobs.generate.vllm_sync import Changes
from jobs.methods.protocol import Preempted, StageContext
from jobs.methods.sharing import check, open_engine
from jobs.rl.apart import Apart
from jobs.rl.generator import Generator
from jobs.rl.rolling import Colocated, Roller
from jobs.train.loop import Trainer
from latentctl.spec.grpo import GrpoSettings


@contextmanager
def open_roller(
    ctx: StageContext, settings: GrpoSettings, trainer: Trainer, samples: Sequence[Request]
) -> Iterator[Roller]:
    """For requests like `samples`, which are the longest that will come. Raises JobUserError where the engine
    cannot serve any of them."""
    partial = settings.needs_vllm or settings.engine == "vllm"  # whose draws depend on their company anyway
    if settings.generators:
        yield Apart(
            _folder(ctx),
            attempt=ctx.attempt,
            rank=ctx.world.rank,
            generators=settings.generators,
            partial=partial,
            stop=lambda: ctx.stop.set,
        )
        return
    # On the very model that is trained, which costs no memory; under ZeRO-3, where that lies in pieces, on a
    # copy. vLLM always has a copy.
    own = trainer.model if trainer.train.zero_stage < 3 else None
    gpu = torch.cuda.is_available()
    engine = _engine(ctx, settings, trainer.tokenizer, samples, own=own, changes=Changes(sleeps=gpu))
    sleeps = gpu and engine.name == "vllm"
    try:
        yield Colocated(engine, _folder(ctx), rank=ctx.world.rank, sleeps=sleeps, partial=partial)
    finally:
        engine.close()


def generate(ctx: StageContext, settings: GrpoSettings, tokenizer: Any, samples: Sequence[Request]) -> None:
    """What a process does that generates for the trainers, until the stage has its result. Raises Preempted,
    JobUserError."""
    engine = _engine(ctx, settings, tokenizer, samples, changes=Changes(sleeps=False))
    try:
        if ctx.world.rank == 0:
            said = f"{ctx.stage.name}: rollouts come from {engine.name} in {ctx.world.size} processes apart"
            print(said, file=sys.stderr, flush=True)
        generator = Generator(
            engine,
            _folder(ctx),
            attempt=ctx.attempt,
            number=ctx.world.rank,
            generators=ctx.world.size,
            trainers=ctx.world.trainers,
            over=ctx.paths.result.exists,
            stop=lambda: ctx.stop.set,
        )
        if not generator.run():
            raise Preempted(ctx.stop.reason or "told to stop")
    finally:
        engine.close()


def forget(ctx: StageContext) -> None:
    """What was made for later attempts, when there will be none."""
    shutil.rmtree(_folder(ctx), ignore_errors=True)


def _engine(
    ctx: StageContext,
    settings: GrpoSettings,
    tokenizer: Any,
    samples: Sequence[Request],
    *,
    changes: Changes,
    own: Any = None,
) -> Engine:
    def on_step(tokens: int) -> bool:
        ctx.report.alive(tokens)
        return ctx.stop.set

    engine = open_engine(
        ctx,
        settings,
        tokenizer,
        samples,
        on_step,
        own=own,
        changes=changes,
        tempered=settings.temperature != 1.0,
        tree=settings.tree,
    )
    try:
        check(ctx.stage.name, samples, engine, room="grpo.max_completion_len")
    except BaseException:
        engine.close()
        raise
    return engine


def _folder(ctx: StageContext) -> Path:
    return ctx.paths.root / "rollouts"
