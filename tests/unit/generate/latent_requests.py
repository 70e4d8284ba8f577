"""Requests that take latent steps, and what the transformers engine makes of them: of both engines' tests."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from engine_harness import NumberTokenizer, by_key
from torch import Tensor

from jobs.generate.protocol import Request, Sample, Thoughts
from jobs.generate.spans import Spans
from jobs.generate.transformers_engine import TransformersEngine
from latentctl.spec.latent import LatentSpec
from latentctl.spec.sampling import SamplingSpec

START, END, PAUSE = (90, 91), (92, 93, 94), 95


def latent(
    input: Any,
    stop: Any,
    *,
    start: str = "prompt",
    markers: tuple[tuple[int, ...], tuple[int, ...]] = (START, END),
    trace: int | None = None,
    noise: Any = None,
) -> Thoughts:
    spec = LatentSpec.model_validate(
        {"input": input, "stop": stop, "start": start, "markers": "think", "noise": noise}
    )
    assert spec.stop is not None
    return Thoughts(spec, *markers, token=PAUSE, fixed=spec.stop.fixed, trace=trace)


def think(
    id: str, ids: list[int], asked: Thoughts | None, most: int, *, index: int = 0, **sampling: Any
) -> Request:
    return Request(id, index, ids, SamplingSpec(max_new_tokens=most, **sampling), thoughts=asked)


def decoded(
    model: Any, requests: list[Request], max_batch: int = 16, **kw: Any
) -> tuple[dict[tuple[str, int], Sample], dict[tuple[str, int], list[Tensor]]]:
    """Samples by key, and the latent inputs that each row was fed."""
    fed: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    plain = Spans.step

    def watched(self: Spans, logits: Tensor | None, hidden: Tensor) -> list[int]:
        thinking = plain(self, logits, hidden)
        for i, place in enumerate(self.places):
            if place in thinking:
                row = self.rows[i].request
                fed[row.id, row.index].append(self.x[i].clone())
        return thinking

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spans, "step", watched)
        engine = TransformersEngine(model, NumberTokenizer(), max_batch=max_batch, **kw)
        return by_key(engine.generate(requests)), fed
