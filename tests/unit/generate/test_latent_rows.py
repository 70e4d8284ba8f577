"""Latent decoding on random weights, teacher-forced: every input, stop rule and start, rows of all kinds and
of text alone in one batch, against one forward without a cache."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest
from engine_harness import NumberTokenizer, ask, by_key, tiny
from naive_latent import replayed
from torch import Tensor

from jobs.generate.protocol import Request, Sample, Thoughts
from jobs.generate.spans import Spans
from jobs.generate.transformers_engine import TransformersEngine
from latentctl.spec.latent import LatentSpec
from latentctl.spec.sampling import SamplingSpec

pytestmark = pytest.mark.heavy
FAMILIES = ["gpt2", "llama", "qwen2", "qwen3", "mistral-sliding", "qwen2-mixed"]
START, END, PAUSE = (90, 91), (92, 93, 94), 95

INPUTS: list[Any] = [
    {"kind": "soft", "temperature": 0.6, "top_p": 0.95},
    {"kind": "soft", "temperature": 1.3, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
    {"kind": "soft", "top_p": 0.9, "min_p": 0.01, "max_topk": 5},
    {"kind": "soft", "max_topk": None},
    {"kind": "soft", "top_p": 0.99, "max_topk": None},
    "hidden",
    {"kind": "contextual", "window": 3, "weights": [0.6, 0.3, 0.1]},
    {"kind": "contextual", "window": 1},
    {"kind": "contextual", "window": 4, "weights": "uniform", "include": "latent_only"},
    {"kind": "contextual", "window": 5, "include": "from_start_marker", "rescale": True},
    {"kind": "contextual", "window": 3, "weights": [0.6, 0.3, 0.1], "compat": True},
    "pause",
]


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


def prompt(rng: random.Random, *tail: int) -> list[int]:
    return [*(rng.randrange(90) for _ in range(rng.randint(1, 24))), *tail]


def think(id: str, ids: list[int], asked: Thoughts, most: int, *, index: int = 0, **sampling: Any) -> Request:
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


def checked(model: Any, requests: list[Request], **kw: Any) -> dict[str, Sample]:
    samples, fed = decoded(model, requests, **kw)
    for request in requests:
        sample = samples[request.id, request.index]
        assert sample.error is None
        if request.thoughts is not None:
            replayed(model, request, sample, fed[request.id, request.index], 1e-4)
    return {key[0]: sample for key, sample in samples.items()}


def mixed(model: Any) -> list[Request]:
    """Every input with every stop rule, ragged prompts; rows of text between them."""
    rng = random.Random(1)
    plain = [think(f"probe{i}", prompt(rng, *START), latent(x, {"max_len": 8}, trace=3), 12)
             for i, x in enumerate(INPUTS)]  # fmt: skip
    probes = by_key(TransformersEngine(model, NumberTokenizer()).generate(plain))
    out = list(plain)
    for i, (x, probe) in enumerate(zip(INPUTS, plain, strict=True)):
        thoughts = probes[probe.id, 0].thoughts
        assert thoughts is not None
        entropies = sorted(t.entropy for t in thoughts)
        stops: dict[str, Any] = {
            "none": 0,
            "fixed": rng.randint(1, 7),
            "capped": {"fixed": 4, "max_len": 6, "end_marker": True},
            "marker": {"end_marker": True, "max_len": 9},
            "entropy": {"entropy": {"threshold": entropies[4] + 1e-3, "patience": 2}, "max_len": 9},
            "model": {"entropy": {"threshold": entropies[3], "patience": 1, "on": "model"}, "max_len": 5},
        }
        for name, stop in stops.items():
            end = (thoughts[3].ids[0], 93) if name == "marker" else END
            asked = latent(
                x, stop, markers=(START, end), trace=rng.choice([None, 2]) if name != "model" else None
            )
            ids = probe.ids if name in ("marker", "entropy") else prompt(rng, *START)
            out.append(think(f"{name}{i}", ids, asked, rng.randint(14, 22)))
        out.append(ask(f"text{i}", prompt(rng), max_new_tokens=rng.randint(1, 20)))
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_every_input_and_stop_rule_in_one_batch_equals_a_forward_without_a_cache(family: str) -> None:
    model = tiny(family, scale=1.5)
    requests = mixed(model)
    got = checked(model, requests, max_batch=20)
    causes = {sample.latent_cause for sample in got.values()}
    assert causes == {None, "fixed", "end_marker", "entropy", "max_len"}
    for i in range(len(INPUTS)):
        assert (got[f"none{i}"].latents, got[f"none{i}"].spans) == (0, ((0, 0),))
        assert (got[f"capped{i}"].latents <= 4, got[f"probe{i}"].latents) == (True, 8)
    text = [r for r in requests if r.thoughts is None]
    alone = by_key(TransformersEngine(model, NumberTokenizer(), max_batch=20).generate(text))
    assert all(got[r.id].ids == alone[r.id, 0].ids for r in text)
