"""What generates the rollouts of a stage: an engine in this process, or processes of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from jobs.generate.protocol import Engine, Request
from jobs.generate.vllm_sync import Changes
from jobs.methods.protocol import StageContext
from jobs.methods.sharing import check, open_engine
from jobs.rl.rolling import Colocated, Roller
from jobs.train.loop import Trainer
from latentctl.spec.grpo import GrpoSettings


@contextmanager
def open_roller(
    ctx: StageContext, settings: GrpoSettings, trainer: Trainer, samples: Sequence[Request]
) -> Iterator[Roller]:
    """The engine for requests like `samples`, which are the longest that will come. Raises JobUserError where
    it cannot serve any of them."""
    engine = _engine(ctx, settings, trainer, samples)
    try:
        check(ctx.stage.name, samples, engine)
        sleeps = engine.name == "vllm" and torch.cuda.is_available()
        yield Colocated(engine, sleeps=sleeps)
    finally:
        engine.close()


def _engine(
    ctx: StageContext, settings: GrpoSettings, trainer: Trainer, samples: Sequence[Request]
) -> Engine:
    """vLLM with a copy of the weights; or transformers on the very model that is trained, which costs no
    memory: under ZeRO-3, where that lies in pieces, on a copy."""
    return open_engine(
        ctx,
        settings,
        trainer.tokenizer,
        samples,
        lambda tokens: ctx.stop.set,
        own=trainer.model if trainer.train.zero_stage < 3 else None,
        changes=Changes(sleeps=torch.cuda.is_available()),
        tempered=settings.temperature != 1.0,
    )
