"""The engine `vllm` on text: what it answers is what the engine `transformers` answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vllm is not installed")

from tiny import POSITIONS, VOCAB, Both, ask, by_key

from jobs.generate.protocol import Request
from jobs.generate.text import decode

pytestmark = pytest.mark.heavy
FAMILIES = ["gpt2", "llama", "qwen3"]
TOLERANCE = 1e-4
PRINTABLE = 94
"""Ids below are characters of one byte."""


@pytest.fixture(scope="module", params=FAMILIES)
def each(request: pytest.FixtureRequest, both: Callable[..., Both]) -> Both:
    return both(request.param)


@pytest.fixture
def engines(both: Callable[..., Both]) -> Both:
    return both(FAMILIES[-1])


def ragged(count: int, seed: int = 0, **sampling: Any) -> list[Request]:
    rng = random.Random(seed)
    return [
        ask(
            f"p{i}",
            [rng.randrange(256) for _ in range(rng.randint(1, 90))],
            **{"max_new_tokens": rng.randint(1, 40), **sampling},
        )
        for i in range(count)
    ]


def check_equal(engines: Both, requests: list[Request]) -> dict[Any, Any]:
    """Greedy answers alike in everything, log-probs within the tolerance; returns vLLM's."""
    ours = by_key(engines.vllm.generate(requests))
    theirs = by_key(engines.transformers.generate(requests))
    assert ours.keys() == theirs.keys()
    for key, want in theirs.items():
        got = ours[key]
        assert (got.ids, got.cause, got.forced, got.text) == (want.ids, want.cause, want.forced, want.text)
        assert got.logps == pytest.approx(want.logps, abs=TOLERANCE)
    return ours


def test_greedy_answers_and_their_log_probs_are_those_of_transformers(each: Both) -> None:
    """More requests than rows, ragged: they join and leave."""
    check_equal(each, ragged(20))


def test_scores_are_those_of_transformers(each: Both) -> None:
    rng = random.Random(3)
    lengths = [(1, 1), (5, 0), (40, 30), (2, 7), (90, 1), (17, 64), (POSITIONS - 8, 8)]
    draw = lambda n: [rng.randrange(256) for _ in range(n)]  # noqa: E731
    items = [(draw(n), draw(m)) for n, m in lengths]
    ours = list(each.vllm.score(iter(items)))
    for got, want in zip(ours, each.transformers.score(items), strict=True):
        assert got == pytest.approx(want, abs=TOLERANCE)
    assert [len(row) for row in ours] == [n for _, n in lengths]


def test_a_score_needs_a_prompt_and_must_fit(engines: Both) -> None:
    with pytest.raises(ValueError, match="item 1 has an empty prompt"):
        list(engines.vllm.score([([1], [2]), ([], [2])]))
    with pytest.raises(ValueError, match=f"item 0 has {POSITIONS + 1} tokens"):
        list(engines.vllm.score([([1] * POSITIONS, [2])]))
    (one,) = engines.vllm.score([([1], [2, 3])])
    assert len(one) == 2  # what was begun is out of the way


def test_the_think_budget_forces_what_it_forces_in_transformers(engines: Both) -> None:
    """A marker of one token and one of four, budgets of nothing and of more than is written."""
    for marker in ("</think>", "####"):
        requests = [
            ask(
                f"{budget}-{r.id}",
                r.ids,
                markers=("<think>", marker),
                max_think_tokens=budget,
                max_new_tokens=24,
            )
            for budget in (0, 1, 7, 20)
            for r in ragged(3, seed=budget)
        ]
        found = check_equal(engines, requests)
        long = [s for s in found.values() if not s.id.startswith("20-")]
        assert {s.forced for s in long} == {len(engines.ids(marker))}


def test_a_prompt_that_closed_the_reasoning_has_no_think_budget(engines: Both) -> None:
    ids = engines.ids("say: </think>")
    request = ask("a", ids, markers=("<think>", "</think>"), max_think_tokens=2, max_new_tokens=9)
    assert check_equal(engines, [request])["a", 0].forced == 0


def test_a_begun_marker_is_finished_not_repeated(engines: Both) -> None:
    """The budget ends where the answer has just written the marker's first token itself."""
    requests = ragged(6, max_new_tokens=20)
    plain = by_key(engines.vllm.generate(requests))
    written = [(r, at) for r in requests for at in range(3, 15) if plain[r.id, 0].ids[at] < PRINTABLE]
    source, at = written[0]
    marker = decode(engines.tokenizer, [plain[source.id, 0].ids[at]]) + "@@"
    budget = {"max_think_tokens": at + 1, "max_new_tokens": 20}
    request = ask("a", source.ids, markers=("<think>", marker), **budget)
    assert check_equal(engines, [request])["a", 0].forced == 2


def test_sampled_answers_obey_the_think_budget_and_draw_anew_after_it(engines: Both) -> None:
    """What follows the marker is not what was drawn before it once more."""
    base = ragged(4, seed=2)
    sampling = {"temperature": 1.0, "samples": 4, "max_new_tokens": 40, "max_think_tokens": 16}
    requests = [
        ask(r.id, r.ids, index=k, markers=("<think>", "</think>"), **sampling) for r in base for k in range(4)
    ]
    found = by_key(engines.vllm.generate(requests))
    for sample in found.values():
        if sample.forced:
            assert sample.ids[16] == engines.ids("</think>")[0]
            assert sample.ids[17:33] != sample.ids[:16]
    assert sum(s.forced for s in found.values()) > 8


def test_stop_texts_end_an_answer_as_in_transformers(engines: Both) -> None:
    plain = by_key(engines.vllm.generate(ragged(8)))
    texts = [
        s.text[i : i + 2]
        for s in plain.values()
        for i in (3, 9)
        if s.text[i : i + 2].isascii() and len(s.text) > 11
    ]
    assert texts
    found = check_equal(engines, ragged(8, stop=texts[:3], max_new_tokens=30))
    stopped = [s for s in found.values() if s.cause == "stop"]
    assert stopped
    assert not any(t in s.text for t in texts[:3] for s in stopped)


def test_an_end_of_sequence_token_ends_an_answer_and_is_no_part_of_it(
    engines: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = ragged(5, max_new_tokens=20)
    plain = by_key(engines.vllm.generate(requests))
    ending = plain["p1", 0].ids[4]
    for engine in (engines.vllm, engines.transformers):
        monkeypatch.setattr(engine, "eos", frozenset([ending, engines.tokenizer.eos_token_id]))
    found = check_equal(engines, requests)["p1", 0]
    assert found.cause == "eos"
    assert found.ids == plain["p1", 0].ids[: plain["p1", 0].ids.index(ending)]


def test_the_tokenizers_end_counts(engines: Both) -> None:
    assert engines.vllm.eos == engines.transformers.eos == {engines.tokenizer.eos_token_id}


def sampled(count: int = 6, k: int = 3, seed: int = 4, **also: Any) -> list[Request]:
    settings = {"temperature": 1.0, "top_p": 0.95, "samples": k, "max_new_tokens": 12, "seed": seed, **also}
    return [ask(r.id, r.ids, index=i, **settings) for r in ragged(count, seed=8) for i in range(k)]


def test_sampled_answers_depend_on_seed_problem_and_sample_alone(engines: Both) -> None:
    """The same samples in one go, in another order, one at a time, and when only the missing are asked."""
    requests = sampled()
    whole = {k: s.ids for k, s in by_key(engines.vllm.generate(requests)).items()}
    backwards = {k: s.ids for k, s in by_key(engines.vllm.generate(requests[::-1])).items()}
    alone = {k: s.ids for r in requests[::5] for k, s in by_key(engines.vllm.generate([r])).items()}
    missing = {k: s.ids for k, s in by_key(engines.vllm.generate(requests[:4:-2])).items()}
    assert whole == backwards
    assert all(whole[k] == ids for k, ids in (alone | missing).items())
    assert len({tuple(ids) for ids in whole.values()}) == len(requests)
    other = by_key(engines.vllm.generate(sampled(seed=5)))
    assert all(other[k].ids != ids for k, ids in whole.items())


def test_filters_keep_what_they_keep_in_transformers(engines: Both) -> None:
    """With one token left by a filter every draw is the greedy one; log-probs are those of the whole."""
    greedy = by_key(engines.transformers.generate(ragged(5, max_new_tokens=10)))
    one_left: list[dict[str, Any]] = [
        {"top_k": 1}, {"top_p": 1e-6}, {"min_p": 0.999}, {"top_k": 1, "min_p": 0.5},
    ]  # fmt: skip
    for filters in one_left:
        found = by_key(engines.vllm.generate(ragged(5, max_new_tokens=10, temperature=1.0, **filters)))
        for key, want in greedy.items():
            assert found[key].ids == want.ids
            assert found[key].logps == pytest.approx(want.logps, abs=TOLERANCE)


def test_samples_of_a_problem_share_its_prompt(engines: Both) -> None:
    rng = random.Random(11)
    ids = [rng.randrange(256) for _ in range(100)]
    before = engines.vllm.shared
    requests = [ask("k", ids, index=i, temperature=1.0, samples=20, max_new_tokens=6) for i in range(20)]
    assert len(by_key(engines.vllm.generate(requests))) == 20
    assert engines.vllm.shared - before == 19 * 96, "all whole blocks of 32 tokens, for all but the first"


def test_both_engines_refuse_in_the_same_words(engines: Both) -> None:
    for request in (
        ask("a", []),
        ask("a", [3, VOCAB]),
        ask("a", [1] * 10, max_new_tokens=POSITIONS),
    ):
        reason = engines.vllm.refuses(request)
        assert reason
        assert reason == engines.transformers.refuses(request)
        (sample,) = engines.vllm.generate([request])
        assert (sample.cause, sample.error) == ("error", reason)
    assert engines.vllm.refuses(ask("a", [1, 2])) is None


def test_a_request_as_long_as_the_model_is_served(engines: Both) -> None:
    request = ask("a", [7] * (POSITIONS - 5), max_new_tokens=5)
    assert len(check_equal(engines, [request])["a", 0].ids) == 5


def test_the_caller_hears_of_every_step_and_may_end_it(
    engines: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    begin = engines.vllm.tokens

    def enough(tokens: int) -> bool:
        heard.append(tokens - begin)
        return len(heard) == 7

    monkeypatch.setattr(engines.vllm, "on_step", enough)
    some = list(engines.vllm.generate(ragged(30, max_new_tokens=30)))
    assert len(heard) == 7
    assert heard == sorted(heard)
    assert heard[-1] > 20
    assert len(some) < 30
    monkeypatch.setattr(engines.vllm, "on_step", None)
    assert len(list(engines.vllm.generate(ragged(3)))) == 3


def test_no_more_requests_stand_in_vllm_than_it_has_rows_and_a_little(
    engines: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever waits is not in its queue."""
    most = 0
    step = engines.vllm.step

    def watched() -> Any:
        nonlocal most
        vllm: Any = engines.vllm._vllm
        most = max(most, vllm.get_num_unfinished_requests())
        return step()

    monkeypatch.setattr(engines.vllm, "step", watched)
    assert len(list(engines.vllm.generate(ragged(40, max_new_tokens=3)))) == 40
    assert 8 <= most <= 9


def test_broken_weights_give_an_error_not_a_text(engines: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs that are no numbers."""
    step = engines.vllm.step

    def broken() -> Any:
        outs = step()
        for out in outs:
            for places in out.outputs[0].logprobs or ():
                for place in places.values():
                    place.logprob = float("nan")
        return outs

    monkeypatch.setattr(engines.vllm, "step", broken)
    (sample,) = engines.vllm.generate([ask("a", [1, 2, 3], max_new_tokens=5)])
    assert (sample.cause, sample.error) == ("error", "the model's logits are not finite at token 0")


def test_the_engine_says_what_it_is(engines: Both) -> None:
    info = engines.vllm.info()
    assert (info.name, info.device) == ("vllm", "cpu")
    assert info.version.startswith("0.")
    assert (info.extra["dtype"], info.extra["runner"]) == ("float32", "V1")
    assert info.extra["start_seconds"] > 0
