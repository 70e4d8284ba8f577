"""Latent decoding on random weights, teacher-forced: every input, stop rule and start, rows of all kinds and
of text alone in one batch, against one forward without a cache."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from engine_harness import NumberTokenizer, ask, by_key, tiny
from latent_requests import END, START, decoded, latent, think
from naive_latent import replayed
from torch import Tensor

from jobs.generate.protocol import Request, Sample, Thoughts
from jobs.generate.transformers_engine import TransformersEngine
from latentctl.spec.latent import LatentSpec

pytestmark = pytest.mark.heavy
FAMILIES = ["gpt2", "llama", "qwen2", "qwen3", "mistral-sliding", "qwen2-mixed"]
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


def prompt(rng: random.Random, *tail: int) -> list[int]:
    return [*(rng.randrange(90) for _ in range(rng.randint(1, 24))), *tail]


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


@pytest.mark.parametrize("family", ["gpt2", "qwen2-mixed"])
def test_spans_begin_wherever_the_model_writes_the_start_marker(family: str) -> None:
    """The marker is what the model writes after this prompt anyway, one to three tokens long; rows of text
    alone say where it first stands."""
    model = tiny(family, scale=2.0)
    rng = random.Random(4)
    prompts = [prompt(rng) for _ in range(18)]
    plain = [ask(f"p{i}", ids, max_new_tokens=40) for i, ids in enumerate(prompts)]
    text = by_key(TransformersEngine(model, NumberTokenizer()).generate(plain))
    requests, first = [], {}
    for i, ids in enumerate(prompts):
        written = text[f"p{i}", 0].ids
        marker = tuple(written[3 : 4 + i % 3])
        first[f"p{i}"] = next(n for n in range(40) if tuple(written[n : n + len(marker)]) == marker) + len(
            marker
        )
        stop = [{"fixed": 3}, {"fixed": 0}, {"end_marker": True, "max_len": 2}][i // 6]
        asked = latent(INPUTS[i % len(INPUTS)], stop, start="model", markers=(marker, END[: 1 + i % 2]))
        requests.append(think(f"p{i}", ids, asked, 40))
    got = checked(model, [*requests, *(ask(f"t{r.id}", r.ids, max_new_tokens=9) for r in plain)])
    for request in requests:
        sample, asked = got[request.id], request.thoughts
        assert asked is not None
        assert sample.spans[0][0] == first[request.id]
        assert sum(n for _, n in sample.spans) == sample.latents
        closing = len(asked.end) * len(sample.spans)
        ends_inside = sample.marker_tokens - len(asked.start) * len(sample.spans) - closing
        assert -len(asked.end) <= ends_inside <= 0, "the last end marker alone may be cut short"
        assert sample.forced == closing + ends_inside
        for before, _ in sample.spans:
            assert tuple(sample.ids[before - len(asked.start) : before]) == asked.start
    assert max(len(got[r.id].spans) for r in requests) >= 2, "a second span begins after the first"
    assert got["tp0"].ids == text["p0", 0].ids[:9]


def test_a_budget_that_ends_inside_a_span_is_said() -> None:
    model = tiny("gpt2")
    asked = latent("hidden", {"end_marker": True, "max_len": 50})
    marker = latent("hidden", 4)
    got = checked(
        model,
        [
            think("inside", prompt(random.Random(0), *START), asked, 10),
            think("marker", prompt(random.Random(1), *START), marker, 8),
        ],
    )
    inside = got["inside"]
    assert (inside.latents, inside.latent_cause, inside.cause, inside.ids) == (10, "budget", "length", [])
    assert inside.spans == ((0, 10),)
    assert inside.marker_tokens == 0
    marked = got["marker"]
    assert (marked.latents, marked.latent_cause, marked.cause) == (4, "fixed", "length")
    assert (marked.ids[:3], len(marked.ids), marked.marker_tokens, marked.forced) == (list(END), 4, 3, 3)


NOISES: list[tuple[Any, Any]] = [
    ("hidden", {"kind": "gaussian", "strength": 0.1}),
    ({"kind": "contextual", "window": 2}, {"kind": "gaussian"}),
    ({"kind": "soft", "top_p": 0.95}, {"kind": "gaussian", "on": "logits"}),
    ({"kind": "soft", "top_p": 0.95}, {"kind": "concrete"}),
    ({"kind": "soft", "top_p": 0.95}, {"kind": "dirichlet"}),
    ({"kind": "soft"}, {"kind": "multiplex"}),
]


def noisy() -> list[Request]:
    """Three samples of a problem for every noise; text after the span is drawn."""
    rng = random.Random(2)
    out = []
    for i, (input, noise) in enumerate(NOISES):
        ids = prompt(rng, *START)
        asked = latent(input, 3 + i % 4, noise=noise, trace=4)
        for k in range(3):
            drawn = {"temperature": 1.0, "samples": 3, "seed": 9}
            out.append(think(f"p{i}", ids, asked, 16, index=k, **drawn))
    return out


def alike(a: dict[Any, Sample], b: dict[Any, Sample]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].ids == b[key].ids
        for x, y in zip(a[key].thoughts or (), b[key].thoughts or (), strict=True):
            assert x.ids == y.ids
            assert x.weights == pytest.approx(y.weights, abs=1e-4)
            assert x.noised
            assert y.noised


def test_noise_depends_on_seed_problem_and_sample_alone() -> None:
    """Alone, in any batch, with the prompt's columns copied: the same thoughts, the same text; another sample
    thinks otherwise."""
    model = tiny("llama", scale=2.0)
    requests = noisy()
    whole, fed = decoded(model, requests)
    alone, _ = decoded(model, requests, max_batch=1)
    alike(whole, alone)
    copied, _ = decoded(model, requests, max_batch=4)
    alike(whole, copied)
    half, _ = decoded(model, requests[::-2])
    alike({key: whole[key] for key in half}, half)
    for i in range(len(NOISES)):
        a, b, c = (torch.stack(fed[f"p{i}", k]) for k in range(3))
        assert min((a - b).norm(), (b - c).norm(), (a - c).norm()) > 1e-2 * a.norm()


def test_memory_that_runs_out_inside_spans_changes_nothing() -> None:
    model = tiny("llama", scale=2.0)
    requests = noisy()
    engine = TransformersEngine(model, NumberTokenizer(), max_batch=16)
    feed, sizes = engine.runner.feed, []

    def small(x: Tensor, positions: list[int], *, head: bool) -> Any:
        if len(positions) > 5 and len(sizes) > 2:
            raise torch.OutOfMemoryError("no more memory")
        sizes.append(len(positions))
        return feed(x, positions, head=head)

    engine.runner.feed = small  # type: ignore[method-assign]
    alike(by_key(engine.generate(requests)), decoded(model, requests)[0])
    assert max(sizes) > 10
    assert sizes[-1] <= 5


def test_samples_of_a_problem_share_its_prompt_and_its_states() -> None:
    """Two rows fit at once: later samples copy the prompt's columns and the states that a window looks at."""
    model = tiny("qwen3", scale=1.0)
    engine = TransformersEngine(model, NumberTokenizer(), max_batch=2)
    seen, prefill = [], engine.runner.prefill_states

    def counted(prompts: Any, slots: Any, states: int) -> Any:
        seen.extend(prompts)
        return prefill(prompts, slots, states)

    engine.runner.prefill_states = counted  # type: ignore[method-assign]
    asked = latent({"kind": "contextual", "window": 4}, 3, trace=2)
    ids = [5, 6, 7, *START]
    sampling = {"temperature": 1.0, "samples": 8}
    lengths = (5, 9, 6, 12, 7, 5, 11, 8)
    requests = [think("p", ids, asked, 8 + n, index=k, **sampling) for k, n in enumerate(lengths)]
    got = by_key(engine.generate(requests))
    assert len(seen) < 8
    alone = by_key(TransformersEngine(model, NumberTokenizer(), max_batch=1).generate(requests))
    assert {k: s.ids for k, s in got.items()} == {k: s.ids for k, s in alone.items()}


def test_the_head_is_left_out_where_nobody_reads_it() -> None:
    model = tiny("gpt2")
    engine = TransformersEngine(model, NumberTokenizer())
    feed, heads = engine.runner.feed, []

    def watched(x: Tensor, positions: list[int], *, head: bool) -> Any:
        heads.append(head)
        return feed(x, positions, head=head)

    engine.runner.feed = watched  # type: ignore[method-assign]
    free = [think(f"p{i}", [1, 2, *START], latent(x, 5), 12) for i, x in enumerate(["hidden", "pause"])]
    list(engine.generate(free))
    assert heads == [False] * 4 + [True] * 3, "after the last latent step and for each token of the marker"
    heads.clear()
    list(engine.generate([*free, think("traced", [1, *START], latent("hidden", 5, trace=1), 12)]))
    assert all(heads)


def test_latent_settings_that_cannot_be_served_are_refused_in_words() -> None:
    model = tiny("gpt2")
    engine = TransformersEngine(model, NumberTokenizer())
    soft = {"kind": "soft"}
    good = [1, *START]
    cases = {
        "does not end with the start marker": think("a", [1, 2], latent(soft, 3), 20),
        "no room for an answer": think("b", good, latent(soft, 17), 20),
        "start marker has token 900": think("c", good, latent(soft, 3, markers=((900,), END)), 20),
        "end marker has no tokens": think("d", good, latent(soft, 3, markers=(START, ())), 20),
        "bounds reasoning in words": think("e", good, latent(soft, 3), 20, max_think_tokens=5),
        "256 positions": think("f", good, latent(soft, 3), 254),
        "learned": think("g", good, latent({"kind": "contextual", "weights": "learned"}, 3), 20),
    }
    no_token = latent("pause", 3)
    cases["<|latent|>"] = think("h", good, Thoughts(no_token.spec, START, END, fixed=3), 20)
    per_step = LatentSpec.model_validate(
        {"input": "hidden", "stop": {"per_step": {}}, "start": "prompt", "markers": "think"}
    )
    cases["nothing ends"] = think("i", good, Thoughts(per_step, START, END), 20)
    fits = think("z", good, latent(soft, 16), 20)
    got = by_key(engine.generate([*cases.values(), fits]))
    for words, request in cases.items():
        assert got[request.id, 0].cause == "error"
        assert words in (got[request.id, 0].error or "")
    assert got["z", 0].error is None


def test_a_model_that_does_more_than_its_parts_show_is_refused_in_words() -> None:
    model = tiny("gpt2")
    forward = model.forward

    def scaled(*args: Any, **kw: Any) -> Any:
        out = forward(*args, **kw)
        out.logits = out.logits * 1.5
        return out

    model.forward = scaled
    engine = TransformersEngine(model, NumberTokenizer())
    asked = [think("a", [1, *START], latent("hidden", 3), 20), ask("b", [1], max_new_tokens=3)]
    got = by_key(engine.generate(asked))
    assert "does more than" in (got["a", 0].error or "")
    assert len(got["b", 0].ids) == 3


def test_a_broken_model_is_an_error_even_where_the_budget_ends_the_span() -> None:
    model = tiny("gpt2")
    with torch.no_grad():
        model.transformer.wte.weight[7] = torch.nan
    spans = latent("hidden", {"end_marker": True, "max_len": 50})
    asked = [
        think("broken", [7, *START], spans, 6),
        think("answered", [7, *START], latent("hidden", 2), 9),
        think("whole", [1, *START], spans, 6),
    ]
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.nan_to_num(0.0))
    got = by_key(TransformersEngine(model, NumberTokenizer()).generate(asked))
    assert "not finite" in (got["broken", 0].error or "")
    assert "not finite" in (got["answered", 0].error or "")
    assert got["whole", 0].error is None
