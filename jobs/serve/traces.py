"""What the latent steps of the newest requests were, by the id of the answer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

KEPT = 256
"""Traced requests; the oldest is forgotten for a new one."""


class Traces:
    """Held in the server's memory."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._inside: dict[str, str] = {}
        self._kept: OrderedDict[str, list[dict[str, Any]]] = OrderedDict()
        self.collecting: set[asyncio.Task] = set()
        """A task that nobody holds may be thrown away before it has run."""

    def known(self, request_id: str, inside: str) -> None:
        """The engine knows the request as `inside`."""
        self._inside[request_id] = inside

    def taken(self, request_id: str, count: int) -> list[str]:
        """The ids of a request's samples inside the engine; empty where it never got there. Once."""
        inside = self._inside.pop(request_id, None)
        if inside is None:
            return []
        return [inside] if count == 1 else [f"{index}_{inside}" for index in range(count)]

    def keep(self, request_id: str, samples: Sequence[dict[str, Any]]) -> None:
        """`samples`: what the plugin says of each, as `latent_pop` gives it."""
        self._kept[request_id] = [
            {
                "index": index,
                "causes": told["causes"],
                "steps": [self._step(t) for t in told["thoughts"] or ()],
            }
            for index, told in enumerate(samples)
        ]
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def of(self, answer: str) -> dict[str, Any] | None:
        """The trace of an answer by its `id`. A completion of several prompts has their samples in turn."""
        found = self._kept.get(answer)
        if found is None:
            prompts = []
            while (one := self._kept.get(f"{answer}-{len(prompts)}")) is not None:
                prompts.append(one)
            found = [{**s, "index": i} for i, s in enumerate(s for one in prompts for s in one)]
        return {"id": answer, "choices": found} if found else None

    def _step(self, thought: Sequence[Any]) -> dict[str, Any]:
        entropy, ids, weights, mass, noised = thought
        tokens = [[self._tokenizer.decode([i]), round(w, 6)] for i, w in zip(ids, weights, strict=True)]
        return {"entropy": round(entropy, 6), "mass": round(mass, 6), "noised": noised, "tokens": tokens}
