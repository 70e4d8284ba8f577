"""The engine `transformers`: continuous batched decoding of a Hugging Face model.

Requests are sorted by length and admitted into the rows of a slot cache; a row that ends is filled by the
last one, and when enough rows are free the next requests are prefilled together. Nothing a row computes
depends on which rows stand beside it, beyond the rounding of the matrix products.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from jobs.generate.protocol import EngineInfo, Request, Sample
from jobs.generate.rows import Row
from jobs.generate.runner import Runner
from jobs.generate.sampling import Knobs, draw
from jobs.generate.score import score
from jobs.latent.noise import uniform

_REFILL = 8  # new requests are admitted when 1/8 of the rows is free: prefills are batched, few rows idle
_NEAR = 0.75  # prompts of one prefill are at least this share of its longest


class TransformersEngine:
    """Holds a model and its tokenizer; see `jobs.generate.protocol.Engine`.

    `max_batch` bounds the rows, `max_batch_tokens` the product of rows and the longest prompt + new tokens
    among them; a single request longer than that runs alone. `on_step`, called after each decoding step
    with the number of tokens generated so far, may return True to end `generate` early (unfinished requests
    are dropped).
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
    ) -> None:
        self.runner = Runner(model)
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.max_batch_tokens = max_batch_tokens
        self.on_step = on_step
        self.eos = eos_ids(model, tokenizer)
        self.tokens = 0
        """Generated so far, over all calls."""

    def info(self) -> EngineInfo:
        extra = {"dtype": str(self.runner.model.dtype).removeprefix("torch."), "max_batch": self.max_batch}
        return EngineInfo(self.name, transformers.__version__, str(self.runner.device), extra)

    def refuses(self, request: Request) -> str | None:
        """Why this request cannot be served; None if it can."""
        if not request.ids:
            return "the prompt is empty: there is no token to start from"
        size = self.runner.config.vocab_size
        if not all(0 <= i < size for i in request.ids):
            wrong = next(i for i in request.ids if not 0 <= i < size)
            return f"the prompt has token {wrong}, the model knows 0 to {size - 1}"
        limit = self.runner.max_positions
        if limit is not None and _total(request) > limit:
            return (
                f"the prompt's {len(request.ids)} tokens and max_new_tokens "
                f"({request.sampling.max_new_tokens}) exceed the model's {limit} positions"
            )
        return None

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample]:
        """Samples as each finishes. A refused or failed request comes as a sample with `cause` "error"."""
        admitted: list[Request] = []
        for request in requests:
            reason = self.refuses(request)
            if reason is None:
                admitted.append(request)
            else:
                yield Sample(request.id, request.index, [], [], "error", error=reason)
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
        return score(
            self.runner.model, items, max_batch=self.max_batch, max_batch_tokens=self.max_batch_tokens
        )

    def close(self) -> None:
        self.runner.reset()


def eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends an answer: of the generation config, the model's config and the tokenizer."""
    found: set[int] = set()
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(holder, "eos_token_id", None)
        found.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return frozenset(found)


def _total(request: Request) -> int:
    return len(request.ids) + request.sampling.max_new_tokens


class _Batch:
    """The rows that are being generated and the requests that wait."""

    def __init__(self, engine: TransformersEngine, requests: Sequence[Request]) -> None:
        self.engine = engine
        self.runner = engine.runner
        first: dict[str, int] = {}
        for request in requests:
            first.setdefault(request.id, len(first))
        order = sorted(requests, key=lambda r: (-_total(r), -len(r.ids), first[r.id], r.index))
        self.waiting = deque(order)
        self.rows: list[Row] = []
        self.limit = engine.max_batch
        self.knobs: Knobs | None = None
        self.shared: tuple[tuple[int, ...], Tensor] | None = None
        """The last prompt prefilled and the logits after it, while more samples of it wait."""

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
        longest = max((_total(r.request) for r in self.rows), default=0)
        while self.waiting and len(self.rows) + len(new) < self.limit:
            request = self.waiting[0]
            longest = max(longest, _total(request))
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
        limit = max(_total(row.request) for row in self.rows)
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
        logits = self._copied(groups, before)
        if fresh := [prompt for prompt in groups if prompt not in logits]:
            out = self.runner.prefill(fresh, [groups[p] for p in fresh])
            logits.update(zip(fresh, out, strict=True))
        last = tuple(new[-1].request.ids)
        more = self.waiting and tuple(self.waiting[0].ids) == last
        self.shared = (last, logits[last].clone()) if more else None
        self.knobs = None
        rows = torch.stack([logits[tuple(row.request.ids)] for row in new])
        return self._take(rows, range(before, len(self.rows)))

    def _copied(self, groups: dict[tuple[int, ...], list[int]], active: int) -> dict[tuple[int, ...], Tensor]:
        """Samples of a problem whose prompt was prefilled before: its columns are copied from a row
        still active."""
        if self.shared is None or self.shared[0] not in groups:
            return {}
        prompt, logits = self.shared
        source = next((s for s in range(active) if tuple(self.rows[s].request.ids) == prompt), None)
        if source is None:
            return {}
        for slot in groups[prompt]:
            self.runner.cache.copy(source, slot, len(prompt))
        return {prompt: logits}

    def _step(self) -> list[Sample]:
        positions = [row.next_position for row in self.rows]
        self._room(max(positions) + 1)
        logits = self.runner.step([row.ids[-1] for row in self.rows], positions)
        return self._take(logits, range(len(self.rows)))

    def _take(self, logits: Tensor, slots: range) -> list[Sample]:
        """Draw a token for each of these rows, let the rows judge, and close up the finished ones."""
        rows = [self.rows[s] for s in slots]
        whole = len(rows) == len(self.rows)
        knobs = self.knobs if whole and self.knobs is not None else _knobs(rows, logits.device)
        self.knobs = knobs if whole else None
        tokens, logps = self._draw(logits, rows, knobs)
        done: list[Sample] = []
        finished: list[int] = []
        for slot, row, token, logp in zip(slots, rows, tokens, logps, strict=True):
            if not math.isfinite(logp):
                done.append(row.sample("error", f"the model's logits are not finite at token {len(row.ids)}"))
                finished.append(slot)
            elif cause := row.accept(token, logp):
                done.append(row.sample(cause))
                finished.append(slot)
        self.engine.tokens += len(rows)
        self._close_up(finished)
        return done

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
        rows, self.rows, self.knobs, self.shared = self.rows, [], None, None
        self.runner.reset()
        if len(rows) <= 1:
            return [row.sample("error", "out of memory with this request alone") for row in rows]
        self.limit = max(1, len(rows) // 2)
        self.waiting.extendleft(row.request for row in reversed(rows))
        return []


def _knobs(rows: Sequence[Row], device: torch.device) -> Knobs:
    return Knobs.of([row.request.sampling for row in rows], device)
