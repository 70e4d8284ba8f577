"""What generates the rollouts of a stage: an engine in this process, or processes of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jobs.generate.make import make_engine
from jobs.generate.protocol import Engine, Request
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
        yield Colocated(engine)
    finally:
        engine.close()


def _engine(
    ctx: StageContext, settings: GrpoSettings, trainer: Trainer, samples: Sequence[Request]
) -> Engine:
    """vLLM with a copy of the weights; or transformers on the very model that is trained, which costs no
    memory: under ZeRO-3, where that lies in pieces, on a copy."""
    on_step = lambda tokens: ctx.stop.set  # noqa: E731
    shared = trainer.train.zero_stage < 3
    if settings.engine == "transformers" and shared:
        return make_engine(
            trainer.model,
            trainer.tokenizer,
            max_batch=settings.max_batch,
            max_batch_tokens=settings.max_batch_tokens,
            on_step=on_step,
        )
    return open_engine(ctx, settings, trainer.tokenizer, samples, on_step)
