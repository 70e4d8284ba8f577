"""Generation by several processes that meet through files alone.

Each process takes every n-th problem and appends to files of its own. A slow one may take hours longer than
the first, which no collective waits for. What is on disk is not made again, with any number of processes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from jobs.data.example import Example
from jobs.generate.admission import total
from jobs.generate.make import make_engine, why_not_vllm
from jobs.generate.protocol import Engine, Request, Sample
from jobs.generate.tree import Judge
from jobs.generate.vllm_args import Devices, Room, apart, own_gpus
from jobs.generate.vllm_requests import unmarked
from jobs.generate.vllm_sync import NO_CHANGES, Changes
from jobs.generate.vllm_weights import Weights, weights
from jobs.methods.peers import Peers
from jobs.methods.protocol import Preempted, StageContext
from jobs.models import load_model, torch_dtype
from jobs.runtime import distributed, sources
from jobs.runtime.errors import JobUserError
from latentctl.spec.engine import EngineSpec
from latentctl.spec.model import ModelSpec
from latentctl.spec.tree import TreeSpec

_TICK_S = 0.5
Key = tuple[str, int]


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
        self.ctx.report.alive(tokens)
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


def open_engine(
    ctx: StageContext,
    settings: EngineSpec,
    tokenizer: Any,
    requests: Sequence[Request],
    on_step: Callable[[int], bool],
    *,
    only: str | None = None,
    own: Any = None,
    changes: Changes = NO_CHANGES,
    tempered: bool = False,
    tree: TreeSpec | None = None,
) -> Engine:
    """The engine that the settings name, or the better one of `auto`, for these requests; it alone loads the
    weights. `only`: why no engine but transformers will do; `own`: a model that is there already, for
    transformers; `changes`, `tempered`: see `VllmEngine`; `tree`: how some of the requests are searched.
    Raises JobUserError."""
    if tree is not None:
        only = only or "trees are searched by it alone"
    where = f"{ctx.stage.name}.{ctx.stage.method}"
    if settings.needs_vllm or settings.engine == "auto":
        asked = list({id(r.thoughts): r.thoughts for r in requests if r.thoughts is not None}.values())
        held: list[Weights] = []

        def config() -> Any:
            held.append(weights(ctx.stage, ctx.source, len(tokenizer)))
            return held[0].config

        reason = only or why_not_vllm(config, asked) or unmarked(asked, tokenizer, held[0].eos(tokenizer))
        if reason is None:
            try:
                more = {"changes": changes, "tempered": tempered}
                return _vllm(ctx, settings, tokenizer, held[0], requests, on_step, more)
            except JobUserError as error:
                if settings.needs_vllm:
                    raise
                reason = error.message
        elif settings.needs_vllm:
            key = "engine" if settings.engine == "vllm" else "tensor_parallel"
            hint = "say engine: transformers, without tensor_parallel"
            raise JobUserError(f"vLLM cannot serve this: {reason}", hint=hint, where=f"{where}.{key}")
        if ctx.world.main:
            print(f"{ctx.stage.name}: engine: transformers, because {reason}", file=sys.stderr, flush=True)
    return make_engine(
        own if own is not None else _loaded(ctx, settings, tokenizer),
        tokenizer,
        max_batch=settings.max_batch,
        max_batch_tokens=settings.max_batch_tokens,
        on_step=on_step,
        judge=None if tree is None or tree.divergence is None else _judge(ctx, tree.divergence),
    )


def _judge(ctx: StageContext, text: str) -> Judge:
    """The divergence model that a search asks."""
    from jobs.models.divergence import DivergenceJudge

    place = sources.weights_of(ctx.run, text, where=f"{ctx.stage.name}.{ctx.stage.method}.tree.divergence")
    return DivergenceJudge.load(place, device=distributed.device(ctx.world)).score


def _loaded(ctx: StageContext, settings: EngineSpec, tokenizer: Any) -> Any:
    return load_model(
        ctx.stage,
        ctx.source,
        precision=settings.precision,
        device=distributed.device(ctx.world),
        vocab_size=len(tokenizer),
    )


def _vllm(
    ctx: StageContext,
    settings: EngineSpec,
    tokenizer: Any,
    found: Weights,
    requests: Sequence[Request],
    on_step: Callable[[int], bool],
    more: dict[str, Any],
) -> Engine:
    """vLLM on this process's GPUs, else on the CPU; `more`: arguments of `VllmEngine`."""
    from jobs.generate.vllm_engine import VllmEngine

    if ctx.world.main and ctx.stage.model.attention != ModelSpec.model_fields["attention"].default:
        words = f"model.attention ({ctx.stage.model.attention}) is for transformers; vLLM chooses its own"
        print(f"{ctx.stage.name}: note: {words}", file=sys.stderr, flush=True)

    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        gpus = own_gpus(visible, settings.tensor_parallel, ctx.world.local_rank)
    except ValueError as error:
        hint = "resources.gpus must be a multiple of tensor_parallel, and no less"
        where = f"{ctx.stage.name}.{ctx.stage.method}.tensor_parallel"
        raise JobUserError(str(error), hint=hint, where=where) from error
    longest = max(total(request) for request in requests)
    room = Room(
        min(longest, found.positions or longest),
        settings.max_batch,
        settings.max_batch_tokens,
        settings.gpu_memory,
    )
    dtype = torch_dtype(settings.precision, "cuda" if gpus else "cpu")
    with found.ready(dtype, ctx.paths.root) as loading:
        return VllmEngine(
            loading,
            tokenizer,
            config=found.config,
            generation=found.generation,
            room=room,
            devices=Devices(gpus, own_process=apart(len(gpus), distributed.joined())),
            latent=any(request.thoughts is not None for request in requests),
            on_step=on_step,
            **more,
        )


def announce_engine(peers: Peers, engine: Engine) -> None:
    """For result.json, also that of a later attempt, which may find all samples made."""
    info = engine.info()
    peers.announce(
        "engine", {"name": info.name, "version": info.version, "device": info.device, **info.extra}
    )


def engine_facts(peers: Peers) -> dict[str, Any]:
    """For result.json: which engines made the samples, and the last one's particulars."""
    found = peers.ever("engine")
    names = sorted({each["name"] for each in found})
    return {"engine": ", ".join(names) or None, "engine_info": found[-1] if found else None}


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


def check(
    stage: str, requests: Sequence[Request], engine: Engine, *, room: str = "sampling.max_new_tokens"
) -> None:
    """Raises JobUserError where no request can be served: the recipe is wrong then, and the part is named.
    `room`: the key that says how much may be generated."""
    reasons = [reason for request in requests if (reason := engine.refuses(request))]
    if len(reasons) == len(requests):
        part, hint = _at_fault(requests[0], engine, room)
        raise JobUserError(
            f"no problem can be put to this model: {reasons[0]}", hint=hint, where=f"{stage}.{part}"
        )


def _at_fault(request: Request, engine: Engine, room: str) -> tuple[str, str]:
    """The key of the recipe without whose value the request would be served, and what to do about it."""
    text = replace(request, thoughts=None)
    if engine.refuses(text) is None:
        return "latent", f"change the latent block, or give it room: a larger {room}"
    short = request.sampling.model_copy(update={"max_new_tokens": 1})
    if engine.refuses(replace(text, sampling=short)) is None:
        return room, f"lower {room}"
    return "prompt", "do the dataset, the prompt and the tokenizer go with this model?"
