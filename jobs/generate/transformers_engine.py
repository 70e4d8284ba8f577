"""The engine `transformers`: continuous batched decoding of a Hugging Face model.

Requests are sorted by length and admitted into the rows of a slot cache; a row that ends is filled by the
last one, and when enough rows are free the next requests are prefilled together. Nothing a row computes
depends on which rows stand beside it, beyond the rounding of the matrix products.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import transformers
from torch import Tensor

from jobs.generate.admission import sorted_out, total, unfit
from jobs.generate.holding import Holding
from jobs.generate.protocol import EngineInfo, Request, Sample, StopCause
from jobs.generate.rows import Row
from jobs.generate.runner import Runner
from jobs.generate.sampling import Knobs, draw
from jobs.generate.score import entropies, score
from jobs.generate.spans import Spans
from jobs.generate.text import eos_ids
from jobs.generate.thoughts import misfit, window
from jobs.generate.tree import Judge, TreeSearch
from jobs.generate.weights import Source, check, copy_into, shapes, stream
from jobs.latent.knobs import TEXT
from jobs.latent.noise import uniform
from jobs.runtime.errors import JobUserError

T = TypeVar("T")
_REFILL = 8  # new requests are admitted when 1/8 of the rows is free: prefills are batched, few rows idle
_NEAR = 0.75  # prompts of one prefill are at least this share of its longest


class TransformersEngine(Holding):
    """Holds a model and its tokenizer; see `jobs.generate.protocol.Engine`.

    `max_batch` bounds the rows, `max_batch_tokens` the product of rows and the longest prompt + new tokens
    among them; a single request longer than that runs alone. `on_step`, called after each decoding step
    with the number of tokens generated so far, may return True to end `generate` early (unfinished requests
    are dropped). `judge`: for tree searches that ask a divergence model.
    """

    name = "transformers"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_batch: int = 64,
        max_batch_tokens: int = 32768,
        on_step: Callable[[int], bool] | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.runner = Runner(model)
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.max_batch_tokens = max_batch_tokens
        self.on_step = on_step
        self.eos = eos_ids(model, tokenizer)
        self.judge = judge
        self.told: Counter[str] = Counter()
        """What tree searches did, see `jobs.generate.tree.TreeSearch`."""
        self.tokens = 0
        """Generated so far, over all calls."""

    def info(self) -> EngineInfo:
        extra = {"dtype": str(self.runner.model.dtype).removeprefix("torch."), "max_batch": self.max_batch}
        return EngineInfo(self.name, transformers.__version__, str(self.runner.device), extra)

    def refuses(self, request: Request) -> str | None:
        """Why this request cannot be served; None if it can."""
        size = self.runner.config.vocab_size
        if reason := unfit(request, size, self.runner.max_positions):
            return reason
        if request.thoughts is None:
            return None
        if request.tree is not None:
            return "tree search is for text alone, and this request takes latent steps"
        try:
            _ = self.runner.parts
        except JobUserError as error:
            return str(error)
        return misfit(request.thoughts, request.ids, request.sampling, size)

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample]:
        """Samples as each finishes. A refused or failed request comes as a sample with `cause` "error"."""
        return self._signed(self._generate(requests))

    def _generate(self, requests: Iterable[Request]) -> Generator[Sample, None, None]:
        admitted, refused = sorted_out(requests, self.refuses)
        yield from refused
        searched = [r for r in admitted if r.tree is not None]
        for spec in dict.fromkeys(r.tree.model_dump_json() for r in searched if r.tree is not None):
            mine = [r for r in searched if r.tree is not None and r.tree.model_dump_json() == spec]
            assert mine[0].tree is not None
            search = TreeSearch(self, mine[0].tree, self.judge)
            yield from search.run(mine)
            self.told.update(search.told)
            if search.stopped:
                return
        admitted = [r for r in admitted if r.tree is None]
        batch = _Batch(self, admitted)
        try:
            while batch.rows or batch.waiting:
                yield from batch.advance()
                if self.on_step is not None and self.on_step(self.tokens):
                    return
        finally:
            self.runner.reset()

    def score(self, items: Iterable[tuple[list[int], list[int]]]) -> Iterator[list[float]]:
        """Teacher-forced log-probs of (prompt ids, continuation ids), in order. Raises ValueError for an
        empty prompt."""
        found = score(
            self.runner.model, items, max_batch=self.max_batch, max_batch_tokens=self.max_batch_tokens
        )
        return self._answering(row for row in found)

    def entropies(self, items: Iterable[tuple[list[int], list[int]]]) -> Iterator[list[float]]:
        """Of the distributions that `score` looks at, in nats."""
        found = entropies(
            self.runner.model, items, max_batch=self.max_batch, max_batch_tokens=self.max_batch_tokens
        )
        return self._answering(row for row in found)

    def _answering(self, answers: Generator[T, None, None]) -> Generator[T, None, None]:
        """A model that is being trained is asked without its dropout, and is given back as it was."""
        model = self.runner.model
        training = getattr(model, "training", False)
        if training:
            model.eval()
        try:
            yield from super()._answering(answers)
        finally:
            if training:
                model.train()

    def load(self, weights: Source, version: int) -> None:
        """See `jobs.generate.protocol.Engine.load`. Weights that are the model's own are there already: the
        trainer's model may be this engine's."""
        coming = stream(weights)
        self._may_load(version)
        model = self.runner.model
        if coming.model is model:
            self.version, self._without = version, None
            return
        if any(hasattr(module, "get_base_layer") for module in model.modules()):
            raise JobUserError("this engine's model has adapters: merged weights have no place in it")
        check(shapes(model), coming)
        with self._replacing(version):
            copy_into(model, coming)

    def sleep(self, *, keep: bool = True) -> None:
        """The cache is freed as each `generate` ends, and the weights may be the trainer's: there is nothing
        to free."""
        self._must_be_idle("sleep")
        self._fall_asleep(keep=keep)

    def wake(self) -> None:
        self._asleep = False

    def close(self) -> None:
        self.runner.reset()


class Seen(NamedTuple):
    """What came out of one prompt."""

    logits: Tensor
    """(V,) after it."""
    states: Tensor
    """(m, d) its last hidden states, newest first; m 0 where no request takes latent steps."""


class _Batch:
    """The rows that are being generated and the requests that wait."""

    def __init__(self, engine: TransformersEngine, requests: Sequence[Request]) -> None:
        self.engine = engine
        self.runner = engine.runner
        first: dict[str, int] = {}
        for request in requests:
            first.setdefault(request.id, len(first))
        order = sorted(requests, key=lambda r: (-total(r), -len(r.ids), first[r.id], r.index))
        self.waiting = deque(order)
        self.rows: list[Row] = []
        self.limit = engine.max_batch
        self.knobs: tuple[list[int], Knobs] | None = None
        """Of these rows, while nobody comes or goes."""
        self.states = max((window(r.thoughts) for r in requests if r.thoughts is not None), default=0)
        """So many hidden states of each prompt are asked for; 0: no request takes latent steps."""
        self.spans: Spans | None = None
        self.shared: tuple[tuple[int, ...], Seen] | None = None
        """The last prompt prefilled and what came out of it, while more samples of it wait."""

    @torch.inference_mode()
    def advance(self) -> list[Sample]:
        """Admit what fits, else one decoding step; the samples that finished."""
        try:
            free = self.limit - len(self.rows)
            if self.waiting and (not self.rows or free * _REFILL >= self.limit) and (new := self._admit()):
                return self._prefill(new)
            return self._step()
        except torch.OutOfMemoryError:
            return self._retreat()

    def _admit(self) -> list[Row]:
        """Waiting requests that fit beside the active rows, and nearly of one length."""
        new: list[Row] = []
        longest = max((total(r.request) for r in self.rows), default=0)
        while self.waiting and len(self.rows) + len(new) < self.limit:
            request = self.waiting[0]
            longest = max(longest, total(request))
            if (len(self.rows) + len(new) + 1) * longest > self.engine.max_batch_tokens and (
                self.rows or new
            ):
                break
            if new and len(request.ids) < _NEAR * len(new[0].request.ids):
                break
            self.waiting.popleft()
            new.append(Row(request, tokenizer=self.engine.tokenizer, eos=self.engine.eos))
        return new

    def _room(self, columns: int) -> None:
        longest = max(row.next_position + 1 for row in self.rows)
        limit = max(total(row.request) for row in self.rows)
        budget = self.engine.max_batch_tokens
        self.runner.cache.ensure(len(self.rows), max(columns, longest), limit=limit, budget=budget)

    def _prefill(self, new: list[Row]) -> list[Sample]:
        """Prefill each distinct prompt once, into the slots of all its samples."""
        before = len(self.rows)
        self.rows += new
        self._room(max(len(row.request.ids) for row in new))
        groups: dict[tuple[int, ...], list[int]] = {}
        for slot, row in enumerate(new, start=before):
            groups.setdefault(tuple(row.request.ids), []).append(slot)
        seen = self._copied(groups, before)
        if fresh := [prompt for prompt in groups if prompt not in seen]:
            seen.update(zip(fresh, self._see(fresh, [groups[p] for p in fresh]), strict=True))
        last = tuple(new[-1].request.ids)
        more = self.waiting and tuple(self.waiting[0].ids) == last
        self.shared = (last, Seen(*(t.clone() for t in seen[last]))) if more else None
        self.knobs = None
        each = [seen[tuple(row.request.ids)] for row in new]
        logits, states = (torch.stack(t) for t in zip(*each, strict=True))
        spans = Spans.begin(new, states, self.runner.parts.embedding) if self.states else None
        hidden = states[:, 0] if self.states else None
        return self._take(logits, hidden, range(before, len(self.rows)), spans)

    def _see(self, prompts: list[tuple[int, ...]], slots: list[list[int]]) -> Iterator[Seen]:
        if self.states:
            return map(Seen, *self.runner.prefill_states(prompts, slots, self.states))
        logits = self.runner.prefill(prompts, slots)
        return map(Seen, logits, logits.new_empty(len(prompts), 0, 0))

    def _copied(self, groups: dict[tuple[int, ...], list[int]], active: int) -> dict[tuple[int, ...], Seen]:
        """Samples of a problem whose prompt was prefilled before: its columns are copied from a row
        still active."""
        if self.shared is None or self.shared[0] not in groups:
            return {}
        prompt, seen = self.shared
        source = next((s for s in range(active) if tuple(self.rows[s].request.ids) == prompt), None)
        if source is None:
            return {}
        for slot in groups[prompt]:
            self.runner.cache.copy(source, slot, len(prompt))
        return {prompt: seen}

    def _step(self) -> list[Sample]:
        positions = [row.next_position for row in self.rows]
        self._room(max(positions) + 1)
        everyone = range(len(self.rows))
        spans = self.spans
        if spans is None:
            logits = self.runner.step([row.ids[-1] for row in self.rows], positions)
            return self._take(logits, None, everyone, None)
        read = spans.reads or not all(row.goes_on for row in self.rows)
        hidden, logits = self.runner.feed(self._inputs(spans), positions, head=read)
        return self._take(logits, hidden, everyone, spans)

    def _inputs(self, spans: Spans) -> Tensor:
        """What each row feeds (rows, d): its newest token's embedding, or its latent input."""
        if all(row.thinks for row in self.rows):
            return spans.x
        return spans.feed(self.runner.embed([0 if row.thinks else row.ids[-1] for row in self.rows]))

    def _take(
        self, logits: Tensor | None, hidden: Tensor | None, slots: range, spans: Spans | None
    ) -> list[Sample]:
        """Let the rows of these slots go on by one position, a latent step or a token, and close up the
        finished ones. `spans`: those of them that may think."""
        rows = [self.rows[s] for s in slots]
        thinking = spans.step(logits, hidden) if spans is not None and hidden is not None else []
        ends: dict[int, tuple[StopCause, str | None]] = {}
        for i in thinking:
            if cause := rows[i].think():
                broken = spans is not None and not spans.sound(i)
                why = f"the model's states are not finite at latent step {rows[i].latents}"
                ends[i] = ("error", why) if broken else (cause, None)
        if len(thinking) < len(rows):
            assert logits is not None, "a row draws a token, but the head was left out"
            still = set(thinking)
            text = [i for i in range(len(rows)) if i not in still]
            self._write(logits if not thinking else logits[text], rows, text, slots, spans, ends)
        self.engine.tokens += len(rows)
        done = [rows[i].sample(cause, error) for i, (cause, error) in sorted(ends.items())]
        for i, (cause, _) in ends.items():
            if cause == "error":
                self.runner.cache.wipe(slots[i])  # the slot's next row must not meet what was not finite
        self._close_up([slots[i] for i in ends])
        self._follow(spans, moved=bool(ends))
        return done

    def _write(
        self,
        logits: Tensor,
        rows: list[Row],
        text: list[int],
        slots: range,
        spans: Spans | None,
        ends: dict[int, tuple[StopCause, str | None]],
    ) -> None:
        """Draw a token for each of the rows `text`, whose `logits` (text, V) these are; they judge."""
        writing = [rows[i] for i in text]
        whole = len(rows) == len(self.rows)
        if not whole or self.knobs is None or self.knobs[0] != text:
            knobs = _knobs(writing, logits.device)
            self.knobs = (text, knobs) if whole else None
        else:
            knobs = self.knobs[1]
        tokens, logps = self._draw(logits, writing, knobs)
        opened: set[int] = set()
        if spans is not None:
            free = zip(text, writing, tokens, strict=True)
            opened = spans.listen({i: token for i, row, token in free if row.phase == TEXT})
        for i, row, token, logp in zip(text, writing, tokens, logps, strict=True):
            if not math.isfinite(logp):
                ends[i] = "error", f"the model's logits are not finite at token {len(row.ids)}"
            elif cause := row.accept(token, logp, opens=i in opened):
                ends[i] = cause, None

    def _follow(self, spans: Spans | None, *, moved: bool) -> None:
        """After rows came, left, `moved` or wrote their last end marker: the spans of all that may think."""
        if spans is not self.spans:
            self.spans = Spans.gathered([self.spans, spans], self.rows)
        elif spans is not None and (moved or not all(row.watched for row in spans.rows)):
            self.spans = Spans.gathered([spans], self.rows)

    def _draw(self, logits: Tensor, rows: list[Row], knobs: Knobs) -> tuple[list[int], list[float]]:
        uniforms = None
        if knobs.sampled:
            keys = torch.tensor([r.key for r in rows], device=logits.device)
            steps = torch.tensor([len(r.ids) for r in rows], device=logits.device)
            uniforms = uniform(keys, steps)
        wanted = [row.wanted for row in rows]
        forced = torch.tensor([-1 if w is None else w for w in wanted], device=logits.device)
        tokens, logps = draw(logits, knobs, uniforms, forced if any(w is not None for w in wanted) else None)
        return tokens.tolist(), logps.tolist()

    def _close_up(self, finished: list[int]) -> None:
        """Fill the slots of finished rows with the last rows, so that the active ones stay the first."""
        for slot in sorted(finished, reverse=True):
            last = len(self.rows) - 1
            if slot != last:
                moved = self.rows[last]
                self.runner.cache.copy(last, slot, moved.next_position)
                self.rows[slot] = moved
            self.rows.pop()
            self.knobs = None

    def _retreat(self) -> list[Sample]:
        """Out of memory: free the cache and start the active rows again, half as many at a time.

        Their draws depend on nothing but the request, so they come out the same.
        """
        rows, self.rows = self.rows, []
        self.knobs = self.spans = self.shared = None
        self.runner.reset()
        if len(rows) <= 1:
            return [row.sample("error", "out of memory with this request alone") for row in rows]
        self.limit = max(1, len(rows) // 2)
        self.waiting.extendleft(row.request for row in reversed(rows))
        return []


def _knobs(rows: Sequence[Row], device: torch.device) -> Knobs:
    asked = [row.request for row in rows]
    return Knobs.of([r.sampling for r in asked], device, [r.tempered for r in asked])
