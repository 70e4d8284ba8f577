"""The engine `vllm`: requests go through vLLM, in this process where that can be, and are followed token by
token.

The vocabulary of the other engine holds here too: `Row` decides when an answer ends and what is forced
(`vllm_requests`), `jobs.latent` decides latent steps (`vllm_plugin`). Samples of one problem share their
prompt through vLLM's prefix cache.
"""

from __future__ import annotations

import gc
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from jobs.generate.admission import sorted_out, total, unfit
from jobs.generate.protocol import EngineInfo, Request, Sample, StopCause
from jobs.generate.score import Item
from jobs.generate.text import eos_ids
from jobs.generate.thoughts import misfit
from jobs.generate.vllm_args import Devices, Loading, Room, engine_args, environment
from jobs.generate.vllm_plugin import wire
from jobs.generate.vllm_requests import NO_PLACEHOLDER, Followed, Turn
from jobs.generate.vllm_sync import NO_CHANGES, Changes, Sync, Synced, sync_args
from jobs.runtime.errors import JobUserError

_WAITING = 8  # 1/8 more requests than rows stand in vLLM, so that none of its rows is ever idle


class VllmEngine(Synced):
    """Starts vLLM on the weights of `loading`; see `jobs.generate.protocol.Engine`.

    `config` and `generation` are the model's configs as transformers reads them. `latent`: requests may take
    latent steps. `on_step` as in `TransformersEngine`. `changes`: what its weights will go through.
    `tempered`: all its log-probs are at the temperature of drawing. Raises JobUserError where vLLM does not
    start.
    """

    name = "vllm"

    def __init__(
        self,
        loading: Loading,
        tokenizer: Any,
        *,
        config: Any,
        generation: Any = None,
        room: Room,
        devices: Devices,
        latent: bool = False,
        on_step: Callable[[int], bool] | None = None,
        changes: Changes = NO_CHANGES,
        tempered: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config.get_text_config(decoder=True)
        self.architectures: list[str] = list(config.architectures or ())
        self.room, self.devices = room, devices
        self.latent = latent
        self.on_step = on_step
        holders = SimpleNamespace(config=config, generation_config=generation)
        self.eos = eos_ids(holders, tokenizer)
        self.tokens = 0
        """Positions generated so far, over all calls."""
        self.shared = 0
        """Tokens of prompts so far that vLLM had computed before, for another sample or an earlier turn."""
        begin = time.monotonic()
        also = sync_args(changes, devices, latent=latent)
        self.tempered = tempered
        if tempered:
            also["logprobs_mode"] = "processed_logprobs"
        self._vllm: Any = _start(loading, self.config, self.architectures, room, devices, latent, also)
        self.sync = Sync(self._vllm, loading, config, devices, changes)
        self.seconds = time.monotonic() - begin
        """That the start took."""
        self._numbers = 0

    def info(self) -> EngineInfo:
        import vllm

        config = self._vllm.vllm_config
        extra = {
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "max_batch": self.room.max_batch,
            "runner": "V2" if config.use_v2_model_runner else "V1",
            "tensor_parallel": max(1, len(self.devices.gpus)),
            "start_seconds": round(self.seconds, 1),
        }
        return EngineInfo(self.name, vllm.__version__, "cuda" if self.devices.gpus else "cpu", extra)

    def refuses(self, request: Request) -> str | None:
        """Why this request cannot be served; None if it can."""
        size = self.config.vocab_size
        if reason := unfit(request, size, getattr(self.config, "max_position_embeddings", None)):
            return reason
        if total(request) > self.room.longest:
            return (
                f"the prompt's {len(request.ids)} tokens and max_new_tokens "
                f"({request.sampling.max_new_tokens}) exceed the {self.room.longest} positions that this "
                "engine was started for"
            )
        if request.tree is not None:
            return "tree search is a mode of the engine transformers: say engine: transformers"
        own = request.sampling
        if self.tempered != request.tempered and own.temperature not in (0.0, 1.0):
            at = "1" if self.tempered else "drawing"
            return f"this engine's log-probs are not at the temperature of {at}"
        asked = request.thoughts
        if asked is None:
            return None
        if reason := misfit(asked, request.ids, request.sampling, size) or wire.refuses(asked):
            return reason
        if not self.latent:
            return "this engine was started for text alone"
        if self._record(request) is None:
            return NO_PLACEHOLDER
        return None

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample]:
        """Samples as each finishes. A refused or failed request comes as a sample with `cause` "error"."""
        return self._signed(self._generate(requests))

    def _generate(self, requests: Iterable[Request]) -> Generator[Sample, None, None]:
        admitted, refused = sorted_out(requests, self.refuses)
        yield from refused
        running = _Running(self, admitted)
        try:
            while running.left:
                try:
                    done = running.advance()
                except _dead():  # it was told to stop as this process was, and was faster
                    if self.on_step is not None and self.on_step(self.tokens):
                        return
                    raise
                yield from done
                if self.on_step is not None and self.on_step(self.tokens):
                    return
        finally:
            running.give_up()

    def score(self, items: Iterable[Item]) -> Iterator[list[float]]:
        """Teacher-forced log-probs of (prompt ids, continuation ids), in order. Raises ValueError for an
        empty prompt, and for an item longer than the engine was started for."""
        return self._answering(_Scoring(self, items).run())

    def close(self) -> None:
        """Free the memory. The engine answers nothing afterwards."""
        if self._vllm is None:
            return
        vllm, self._vllm = self._vllm, None
        vllm.engine_core.shutdown()
        del vllm, self.sync  # it holds vLLM too
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def submit(self, turn: Turn) -> tuple[str, str]:
        """Give vLLM a turn: the names by which it speaks of it, and is spoken to."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        self._numbers += 1
        outer = str(self._numbers)
        sampling = SamplingParams(**turn.sampling, output_kind=RequestOutputKind.DELTA)
        return outer, self._vllm.add_request(outer, tokens_input(turn.prompt), sampling)

    def step(self) -> list[Any]:
        """One step of vLLM: what came, as its `RequestOutput`s."""
        return self._vllm.step()

    def abort(self, inner: Sequence[str]) -> None:
        if inner and self._vllm is not None:
            self._vllm.abort_request(list(inner), internal=True)

    def told(self, outer: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What the plugin recorded of these requests, which are over."""
        return self._vllm.engine_core.collective_rpc("latent_pop", args=(list(outer),))[0] if outer else {}

    def follow(self, request: Request) -> Followed:
        record = None if request.thoughts is None else self._record(request)
        size = self.config.vocab_size
        return Followed(request, tokenizer=self.tokenizer, eos=self.eos, vocabulary=size, record=record)

    def _record(self, request: Request) -> int | None:
        asked = request.thoughts
        return None if asked is None else wire.placeholder(self.tokenizer, asked.end, self.eos)


class _Running:
    """The requests that stand in vLLM, and those that wait."""

    def __init__(self, engine: VllmEngine, requests: Sequence[Request]) -> None:
        self.engine = engine
        first: dict[str, int] = {}
        for request in requests:
            first.setdefault(request.id, len(first))
        # Samples of one problem go in one after the other: the first one's prompt is there for the next.
        order = sorted(requests, key=lambda r: (-total(r), -len(r.ids), first[r.id], r.index))
        self.waiting = deque(order)
        self.limit = engine.room.max_batch + max(1, engine.room.max_batch // _WAITING)
        self.held: dict[str, tuple[str, Followed]] = {}
        """By vLLM's outer name: its inner name, and whose turn it is."""

    @property
    def left(self) -> bool:
        return bool(self.held or self.waiting)

    def advance(self) -> list[Sample]:
        """Fill up, let vLLM take a step, and follow what came."""
        while self.waiting and len(self.held) < self.limit:
            self._turn(self.engine.follow(self.waiting.popleft()))
        ended: list[tuple[str, Followed, StopCause, str | None]] = []
        over: list[str] = []
        for out in self.engine.step():
            if out.request_id not in self.held:
                continue  # given up, and a step was under way
            inner, followed = self.held[out.request_id]
            if followed.fresh:
                followed.fresh = False
                self.engine.shared += out.num_cached_tokens or 0
            cause, error = self._follow(followed, out)
            if cause is None and not (out.finished or followed.turns_over):
                continue
            del self.held[out.request_id]
            if not out.finished:
                over.append(inner)
            if cause is not None:
                ended.append((out.request_id, followed, cause, error))
            else:
                self._turn(followed)
        self.engine.abort(over)
        latent = [outer for outer, followed, _, _ in ended if followed.request.thoughts is not None]
        told = self.engine.told(latent)
        return [f.sample(cause, error, told.get(outer)) for outer, f, cause, error in ended]

    def give_up(self) -> None:
        """Nobody waits for the rest."""
        self.engine.abort([inner for inner, _ in self.held.values()])
        self.held = {}

    def _turn(self, followed: Followed) -> None:
        outer, inner = self.engine.submit(followed.turn())
        self.held[outer] = inner, followed

    def _follow(self, followed: Followed, out: Any) -> tuple[StopCause | None, str | None]:
        """Take what came of this turn: why the answer ends, None while it goes on."""
        said = out.outputs[0]
        for token, places in zip(said.token_ids, said.logprobs or (), strict=True):
            latent = followed.thinking
            logp = places[token].logprob
            self.engine.tokens += 1
            if not latent and not math.isfinite(logp):
                return "error", f"the model's logits are not finite at token {len(followed.row.ids)}"
            if cause := followed.take(token, logp):
                return cause, None
            if followed.turns_over:
                return None, None
        if out.finished and not followed.turns_over:
            return "error", f"vLLM ended the request before its answer was whole ({said.finish_reason})"
        return None, None


class _Scoring:
    """Continuations as prompts of vLLM. Their last token is forced as the one that vLLM draws, so that a
    sequence as long as the model's positions can be scored too."""

    def __init__(self, engine: VllmEngine, items: Iterable[Item]) -> None:
        self.engine = engine
        self.items = enumerate(items)
        self.ready: dict[int, list[float]] = {}
        self.held: dict[str, tuple[str, int, int, int]] = {}
        """By vLLM's outer name: its inner name, number of the item, tokens of its prompt and of its
        continuation."""

    def run(self) -> Generator[list[float], None, None]:
        number, more = 0, True
        try:
            while more or self.held or self.ready:
                while more and len(self.held) + len(self.ready) < self.engine.room.max_batch:
                    item = next(self.items, None)
                    more = item is not None
                    if item is not None:
                        self._ask(*item)
                if self.held and number not in self.ready:
                    self._step()
                while number in self.ready:
                    yield self.ready.pop(number)
                    number += 1
        finally:
            self.engine.abort([inner for inner, *_ in self.held.values()])

    def _ask(self, number: int, item: Item) -> None:
        prompt, continuation = item
        if not prompt:
            raise ValueError(f"item {number} has an empty prompt: its first token cannot be scored")
        count = len(prompt) + len(continuation)
        if count > self.engine.room.longest:
            raise ValueError(
                f"item {number} has {count} tokens, this engine was started for {self.engine.room.longest}"
            )
        if not continuation:
            self.ready[number] = []
            return
        said: dict[str, Any] = {
            "temperature": 0.0,
            "max_tokens": 1,
            "logprobs": 0,
            "detokenize": False,
            "allowed_token_ids": [continuation[-1]],
        }
        if len(continuation) > 1:
            said["prompt_logprobs"] = 0
        outer, inner = self.engine.submit(Turn([*prompt, *continuation[:-1]], said))
        self.held[outer] = inner, number, len(prompt), len(continuation)

    def _step(self) -> None:
        for out in self.engine.step():
            if not out.finished or out.request_id not in self.held:
                continue
            _, number, start, length = self.held.pop(out.request_id)
            ids = out.prompt_token_ids
            places = (out.prompt_logprobs or [])[start : start + length - 1]
            logps = [place[ids[start + i]].logprob for i, place in enumerate(places)]
            last = out.outputs[0]
            self.ready[number] = [*logps, last.logprobs[0][last.token_ids[0]].logprob]


def _start(
    loading: Loading,
    config: Any,
    architectures: list[str],
    room: Room,
    devices: Devices,
    latent: bool,
    also: dict[str, Any],
) -> Any:
    """vLLM's engine; `also`: arguments besides. Raises JobUserError where it cannot be started with these
    weights and this memory."""
    with environment(own_process=devices.own_process), _deaf():
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        args = engine_args(loading, config, room, devices) | also
        if latent:
            from jobs.generate.vllm_plugin.setup import engine_args as plugin

            args |= plugin(architectures)
        threads = torch.set_num_threads  # vLLM's CPU worker puts a warning in its place
        try:
            return LLMEngine.from_engine_args(EngineArgs(**args))
        except (ValueError, RuntimeError) as error:
            if not devices.own_process:
                if not isinstance(error, ValueError):
                    raise
                _forget()
            # The reason of another process stands above in the log; here it is a RuntimeError.
            words = " ".join(str(error).split())
            raise JobUserError(
                f"vLLM does not start: {words[:300]}",
                hint="less max_batch, max_batch_tokens or gpu_memory, or engine: transformers",
            ) from error
        finally:
            torch.set_num_threads = threads


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that vLLM starts hear nothing of USR2, which a scheduler may send to all: this one ends them
    when it has heard it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forget() -> None:
    """What a start that failed left in this process."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()


def _dead() -> type[Exception]:
    from vllm.v1.engine.exceptions import EngineDeadError

    return EngineDeadError
