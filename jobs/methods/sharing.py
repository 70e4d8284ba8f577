"""Generation by several processes that meet through files alone.

Each process takes every n-th problem and appends to files of its own. A slow one may take hours longer than
the first, which no collective waits for. What is on disk is not made again, with any number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from jobs.data.example import Example
from jobs.generate.make import make_engine
from jobs.generate.protocol import Engine, Request, Sample
from jobs.methods.peers import Peers
from jobs.methods.protocol import Preempted, StageContext
from jobs.models import load_model
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError

_TICK_S = 0.5
Key = tuple[str, int]


class EngineSettings(Protocol):
    """What the settings of every method that generates say of its engine."""

    @property
    def engine(self) -> str: ...
    @property
    def max_batch(self) -> int: ...
    @property
    def max_batch_tokens(self) -> int: ...
    @property
    def precision(self) -> Any: ...


class Share:
    """This process's samples: which there are, which are still to be made, how far it is.

    The split does not depend on what is done, so processes need not agree.
    """

    def __init__(self, ctx: StageContext, peers: Peers, examples: Sequence[Example], done: set[Key]) -> None:
        self.ctx, self.peers = ctx, peers
        self.problems = len(examples)
        mine = range(ctx.world.rank, len(examples), ctx.world.size)
        every = {(examples[i].id, k): i for i in mine for k in range(ctx.stage.sampling.samples)}
        self.asked = {key: place for key, place in every.items() if key not in done}
        """(id, index) -> place of the problem, of every sample that no file has."""
        self.total = len(every)
        self.finished = self.total - len(self.asked)
        self._tokens = 0
        self._begin = self._ticked = time.monotonic()

    def generate(
        self, engine: Engine, requests: Sequence[Request], keep: Callable[[Sample, int], None]
    ) -> dict[str, Any]:
        """Hand each sample to `keep`, with the place of its problem, as it comes.

        -> its tokens, samples, seconds. Raises Preempted with all that came kept.
        """
        self._begin = time.monotonic()
        tokens = 0
        for sample in engine.generate(requests):
            keep(sample, self.asked[sample.id, sample.index])
            self.finished += 1
            tokens += len(sample.ids)
        if self.finished < self.total:
            why = self.ctx.stop.reason or "another process stopped"
            raise Preempted(f"{self.finished} of {self.total} samples are on disk: {why}")
        self.report()
        return {"tokens": tokens, "samples": len(requests), "seconds": time.monotonic() - self._begin}

    def on_step(self, tokens: int) -> bool:
        """After each decoding step. True: stop."""
        self._tokens = tokens
        if time.monotonic() - self._ticked < _TICK_S:
            return self.ctx.stop.set
        self._ticked = time.monotonic()
        self.report()
        return self.stopped()

    def stopped(self) -> bool:
        """This process or one of its peers was told to stop."""
        return self.ctx.stop.set or self.peers.any_said("stopped")

    def report(self) -> None:
        """Process 0's share stands for all: the others are about as far."""
        share = self.finished / self.total if self.total else 1.0
        rate = round(self._tokens / max(1e-9, time.monotonic() - self._begin), 1)
        step = int(share * self.problems)
        self.ctx.report.progress(step, self.problems, unit="problem", tokens_per_s=rate)


NOTHING_LEFT = {"tokens": 0, "samples": 0, "seconds": 0.0}
"""What `Share.generate` says of a share that is whole."""


def speed(said: Sequence[dict[str, Any]], samples: int) -> dict[str, Any]:
    """Of this attempt's generation, loading aside: all tokens over the slowest process's seconds."""
    seconds = max(s["seconds"] for s in said)
    if seconds <= 0:
        return {"problems_per_s": None, "tokens_per_s": None, "generation_seconds": 0.0}
    return {
        "problems_per_s": sum(s["samples"] for s in said) / samples / seconds,
        "tokens_per_s": sum(s["tokens"] for s in said) / seconds,
        "generation_seconds": round(seconds, 3),
    }


def open_model(ctx: StageContext, settings: EngineSettings, tokenizer: Any) -> Any:
    """The stage's model on this process's device. Raises JobUserError."""
    return load_model(
        ctx.stage,
        ctx.source,
        precision=settings.precision,
        device=distributed.device(ctx.world),
        vocab_size=len(tokenizer),
    )


def open_engine(
    settings: EngineSettings, model: Any, tokenizer: Any, on_step: Callable[[int], bool]
) -> Engine:
    """The engine that the settings name. Raises JobUserError."""
    return make_engine(
        settings.engine,
        model,
        tokenizer,
        max_batch=settings.max_batch,
        max_batch_tokens=settings.max_batch_tokens,
        on_step=on_step,
    )


def in_turn(
    ctx: StageContext, peers: Peers, mine: Callable[[], dict[str, Any]], finish: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Every process does `mine`; when all have, process 0 does `finish`, for which the others wait.

    Returns process 0's numbers, elsewhere {}. Raises Preempted in all once one was told to stop.
    """
    stopped: Callable[[], bool] = lambda: ctx.stop.set or peers.any_said("stopped")  # noqa: E731
    try:
        peers.announce("done", mine())
        peers.wait_for("done", stopped)
        if not ctx.world.main:
            peers.wait_for("finished", stopped, only=0)
            return {}
        numbers = finish()
        peers.announce("finished", {})
    except Preempted:
        peers.announce("stopped", {})
        raise
    return numbers


def check(stage: str, requests: Sequence[Request], engine: Engine) -> None:
    """Raises JobUserError where no request can be served: the recipe is wrong then, and the part is named."""
    reasons = [reason for request in requests if (reason := engine.refuses(request))]
    if len(reasons) == len(requests):
        part, hint = _at_fault(requests[0], engine)
        raise JobUserError(
            f"no problem can be put to this model: {reasons[0]}", hint=hint, where=f"{stage}.{part}"
        )


def _at_fault(request: Request, engine: Engine) -> tuple[str, str]:
    """The key of the recipe without whose value the request would be served, and what to do about it."""
    text = replace(request, thoughts=None)
    if engine.refuses(text) is None:
        return "latent", "change the latent block, or give it room: a larger sampling.max_new_tokens"
    short = request.sampling.model_copy(update={"max_new_tokens": 1})
    if engine.refuses(replace(text, sampling=short)) is None:
        return "sampling.max_new_tokens", "lower sampling.max_new_tokens"
    return "prompt", "do the dataset, the prompt and the tokenizer go with this model?"
