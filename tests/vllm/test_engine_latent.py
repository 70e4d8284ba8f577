"""The engine `vllm` on latent requests: spans are followed by ids, and told as `transformers` tells them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vllm is not installed")

from tiny import Both, ask, by_key

from jobs.generate.protocol import Request
from jobs.generate.thoughts import thoughts
from latentctl.spec.latent import LatentSpec

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def engines(both: Callable[..., Both]) -> Both:
    return both("qwen3", latent=True)


def latent(
    engines: Both, id: str, *, index: int = 0, trace: int | None = 3, length: int = 40, **said: Any
) -> Request:
    """A request with these latent settings, whose prompt is a function of its id."""
    sampling = said.pop("sampling", {"max_new_tokens": 16})
    spec = LatentSpec.model_validate({"markers": "think", "start": "prompt", "stop": 3, **said})
    asked = thoughts(spec, engines.tokenizer, trace=trace)
    rng = random.Random(id)
    ids = [rng.randrange(90) for _ in range(rng.randint(1, length))]
    ids += asked.start if spec.start == "prompt" else ()
    return replace(ask(id, ids, index=index, **sampling), thoughts=asked)


def check_equal(engines: Both, requests: list[Request]) -> dict[Any, Any]:
    """Alike in all that a sample says; returns vLLM's."""
    ours = by_key(engines.vllm.generate(requests))
    theirs = by_key(engines.transformers.generate(requests))
    assert ours.keys() == theirs.keys()
    for key, want in theirs.items():
        got = ours[key]
        assert got.error is None
        for name in ("ids", "cause", "forced", "text", "latents", "latent_cause", "spans", "marker_tokens"):
            assert getattr(got, name) == getattr(want, name), (key, name)
        assert got.logps == pytest.approx(want.logps, abs=1e-4)
        assert (got.thoughts is None) == (want.thoughts is None)
        for one, other in zip(got.thoughts or (), want.thoughts or (), strict=True):
            assert (one.ids, one.noised) == (other.ids, other.noised)
            assert one.entropy == pytest.approx(other.entropy, abs=1e-4)
            assert one.weights == pytest.approx(other.weights, abs=1e-4)
            assert one.mass == pytest.approx(other.mass, abs=1e-4)
    return ours


def test_every_input_and_stop_rule_beside_plain_requests(engines: Both) -> None:
    settings: list[dict[str, Any]] = [
        {"input": "soft"},
        {"input": "hidden", "stop": {"fixed": 4, "max_len": 6}},
        {"input": {"kind": "contextual", "window": 3}},
        {"input": "pause", "stop": {"fixed": 0, "max_len": 2}},
        {
            "input": {"kind": "soft", "top_k": 5, "temperature": 0.7},
            "stop": {"max_len": 5, "end_marker": True},
        },
        {"input": "soft", "stop": {"max_len": 6, "entropy": {"threshold": 9.0, "patience": 2}}},
        {"input": {"kind": "soft", "top_p": 0.9}, "noise": {"kind": "dirichlet", "alpha": 2.0}},
    ]
    requests = [
        latent(engines, f"l{i}", trace=None if i % 3 == 2 else i, **s) for i, s in enumerate(settings)
    ]
    plain = [ask(f"p{i}", [7 + i] * (9 * i + 1), max_new_tokens=11) for i in range(4)]
    found = check_equal(engines, [*requests, *plain])
    assert {s.latent_cause for s in found.values()} == {"fixed", "max_len", "entropy", None}
    assert (found["l3", 0].latents, found["l3", 0].forced) == (0, 1)
    assert found["l5", 0].latent_cause == "entropy"


def test_an_answer_that_ends_inside_a_span_says_budget(engines: Both) -> None:
    short = {"max_new_tokens": 4}
    request = latent(engines, "a", input="hidden", stop={"max_len": 9, "end_marker": True}, sampling=short)
    found = check_equal(engines, [request])["a", 0]
    assert (found.cause, found.latent_cause, found.latents, found.ids) == ("length", "budget", 4, [])


def spanning(engines: Both, *, most: int = 30, stop: Any = 2, **sampling: Any) -> list[Request]:
    """Greedy answers in which a start marker comes, because it is a text that the model writes anyway: two
    of its tokens, or the one that it writes most."""
    plain = [latent(engines, f"s{i}", input="none", start="model") for i in range(4)]
    texts = by_key(engines.transformers.generate([replace(r, thoughts=None) for r in plain]))
    requests = []
    for i, request in enumerate(plain):
        ids = texts[request.id, 0].ids
        marker = tuple(ids[3:5]) if i % 2 else (Counter(ids).most_common(1)[0][0],)
        spec = LatentSpec.model_validate(
            {"input": "hidden", "markers": "think", "start": "model", "stop": stop}
        )
        asked = replace(thoughts(spec, engines.tokenizer, trace=1), start=marker)
        requests.append(
            replace(ask(request.id, request.ids, max_new_tokens=most, **sampling), thoughts=asked)
        )
    return requests


def test_a_span_opens_wherever_the_start_marker_was_written(engines: Both) -> None:
    found = check_equal(engines, spanning(engines))
    assert all(s.spans for s in found.values())
    assert sum(len(s.spans) for s in found.values()) > 4, "several spans in one answer"
    assert {n for s in found.values() for _, n in s.spans[:-1]} == {2}


def test_a_stop_text_after_a_span_ends_the_answer(engines: Both) -> None:
    request = latent(engines, "a", input="soft", sampling={"max_new_tokens": 30})
    text = by_key(engines.transformers.generate([request]))["a", 0].text
    stop = text.split("</think>")[1][4:6]
    stopped = replace(request, sampling=request.sampling.model_copy(update={"stop": [stop]}))
    assert check_equal(engines, [stopped])["a", 0].cause == "stop"


def test_samples_draw_alike_in_any_batch_and_share_the_prompt(engines: Both) -> None:
    """Noise and text are functions of the sample; a window's first step needs the prompt computed again."""
    before = engines.vllm.shared
    drawn = {"temperature": 1.0, "samples": 6, "max_new_tokens": 14}
    noise = {"kind": "gaussian", "strength": 0.5}

    def samples(input: Any) -> list[Request]:
        long = [latent(engines, "a", index=k, input=input, noise=noise, sampling=drawn) for k in range(6)]
        return [replace(r, ids=[5] * 70 + r.ids) for r in long]

    for input, shared in (("hidden", True), ({"kind": "contextual", "window": 3}, False)):
        requests = samples(input)
        whole = by_key(engines.vllm.generate(requests))
        assert (engines.vllm.shared - before >= 5 * 64) == shared
        alone = by_key(s for r in requests[::2] for s in engines.vllm.generate([r]))
        assert all(whole[key].ids == s.ids for key, s in alone.items())
        assert len({tuple(s.ids) for s in whole.values()}) == 6
        before = engines.vllm.shared


def test_what_vllm_cannot_do_is_refused_in_words(engines: Both) -> None:
    for said, words in (
        ({"max_topk": None}, "max_topk: null"),
        ({"max_topk": 65}, "max_topk (65)"),
        ({"top_k": 100, "top_p": 0.9}, "top_k (100)"),
    ):
        (sample,) = engines.vllm.generate([latent(engines, "a", input={"kind": "soft", **said})])
        assert sample.cause == "error"
        assert words in (sample.error or "")


def test_settings_that_do_not_fit_are_refused_as_transformers_does(engines: Both) -> None:
    request = latent(engines, "a", input="hidden")
    for broken in (
        replace(request, ids=request.ids[:-1] or [1]),
        replace(request, sampling=request.sampling.model_copy(update={"max_new_tokens": 4})),
        replace(request, sampling=request.sampling.model_copy(update={"max_think_tokens": 2})),
    ):
        assert engines.vllm.refuses(broken)
        assert engines.vllm.refuses(broken) == engines.transformers.refuses(broken)


def test_a_tokenizer_without_a_special_token_to_spare_is_refused(
    engines: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.generate.vllm_plugin.wire.placeholder", lambda *a: None)
    reason = engines.vllm.refuses(latent(engines, "a", input="hidden"))
    assert reason is not None
    assert "no special token" in reason


def test_an_engine_for_text_alone_says_so(engines: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.vllm, "latent", False)
    reason = engines.vllm.refuses(latent(engines, "a", input="hidden"))
    assert reason == "this engine was started for text alone"
