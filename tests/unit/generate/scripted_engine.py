"""An engine that answers by script, and tells what it was asked: for tests of what stands around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from jobs.generate.protocol import EngineInfo, LatentCause, Request, Sample, Thought
from jobs.generate.text import decode


class ScriptedEngine:
    """Takes each request's latent steps at once and writes `answer(request)` behind the end marker."""

    name = "transformers"

    def __init__(
        self,
        tokenizer: Any,
        *,
        answer: Callable[[Request], str] = lambda r: "### b",
        cause: LatentCause = "fixed",
        entropy: Callable[[Request, int], float] = lambda r, step: 0.5 + step,
    ) -> None:
        self.tokenizer, self.answer, self.entropy = tokenizer, answer, entropy
        self.cause: LatentCause = cause
        self.asked: list[Request] = []

    def info(self) -> EngineInfo:
        return EngineInfo(self.name, "0", "cpu", {})

    def refuses(self, request: Request) -> str | None:
        return None

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample]:
        for request in sorted(requests, key=lambda r: (r.id, -r.index), reverse=True):
            self.asked.append(request)
            yield self.sample(request)

    def sample(self, request: Request) -> Sample:
        asked = request.thoughts
        own = self.tokenizer(self.answer(request), add_special_tokens=False)["input_ids"]
        if asked is None:
            return Sample(
                request.id, request.index, own, [-0.5] * len(own), "eos", text=decode(self.tokenizer, own)
            )
        latents = 2 if asked.fixed is None else asked.fixed
        ids = [*asked.end, *own]
        trace = None
        if asked.trace is not None:
            top = tuple(range(asked.trace))
            trace = tuple(
                Thought(self.entropy(request, i), top, tuple(1 / (2 + t) for t in top), 1.0)
                for i in range(latents)
            )
        return Sample(
            request.id, request.index, ids, [-0.5] * len(ids), "eos", forced=len(asked.end),
            text=decode(self.tokenizer, ids), latents=latents, latent_cause=self.cause,
            spans=((0, latents),), marker_tokens=len(asked.end), thoughts=trace,
        )  # fmt: skip

    def score(self, items: Iterable[Any]) -> Iterator[list[float]]:
        pytest.fail("an evaluation asks for no scores")

    def close(self) -> None:
        pass


def scripted(patch: pytest.MonkeyPatch, **script: Any) -> list[ScriptedEngine]:
    """Put the scripted engine in the place of the real one, without a model; the engines that were made."""
    made: list[ScriptedEngine] = []

    def make(model: Any, tokenizer: Any, **_: Any) -> ScriptedEngine:
        made.append(ScriptedEngine(tokenizer, **script))
        return made[-1]

    patch.setattr("jobs.methods.sharing.make_engine", make)
    patch.setattr("jobs.methods.sharing.load_model", lambda *a, **k: None)
    return made
