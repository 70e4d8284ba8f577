"""How rows come, go, stop and are forced: a scripted model in place of a real one, so that every token
is known."""

from __future__ import annotations

import random
from typing import Any

import pytest
from engine_harness import Scripted, ask, by_key, byte_tokenizer, scripted_engine

TOKENIZER = byte_tokenizer()


def text_ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


def says(*answers: str, eos: bool = True) -> Any:
    """After prompt i (one byte: its number) the model writes answer i, then end-of-sequence for ever."""
    scripts = [text_ids(a) for a in answers]

    def follow(history: list[int]) -> int:
        script, place = scripts[history[0]], len(history) - 1
        return script[place] if place < len(script) else 256

    return follow


def mixed(history: list[int]) -> int:
    """A pseudo-random function of the history: any mix-up of rows changes what follows."""
    value = 17
    for token in history:
        value = (value * 31 + token + 1) % 1_000_003
    return 256 if value % 13 == 0 else value % 256


def naive(ids: list[int], most: int) -> tuple[list[int], str]:
    history: list[int] = list(ids)
    while len(history) - len(ids) < most:
        token = mixed(history)
        if token == 256:
            return history[len(ids) :], "eos"
        history.append(token)
    return history[len(ids) :], "length"


@pytest.mark.parametrize("max_batch", [1, 3, 16])
@pytest.mark.parametrize("max_batch_tokens", [60, 200, 100_000])
def test_every_row_gets_its_own_tokens_whatever_the_batch(max_batch: int, max_batch_tokens: int) -> None:
    rng = random.Random(max_batch)
    requests = [
        ask(
            f"p{i}",
            [rng.randrange(256) for _ in range(rng.randint(1, 40))],
            max_new_tokens=rng.randint(1, 20),
        )
        for i in range(60)
    ]
    runner = Scripted(mixed)
    engine = scripted_engine(
        runner, TOKENIZER, eos={256}, max_batch=max_batch, max_batch_tokens=max_batch_tokens
    )
    got = by_key(engine.generate(requests))
    assert len(got) == len(requests)
    for request in requests:
        sample = got[request.id, 0]
        assert (sample.ids, sample.cause) == naive(request.ids, request.sampling.max_new_tokens)
        assert len(sample.logps) == len(sample.ids)
    assert max(runner.steps, default=0) <= max_batch


def test_free_rows_are_filled_while_others_go_on() -> None:
    """One long answer and many short ones: the batch stays full, so steps are far fewer than group by
    group."""
    answers = ["x" * (60 if i % 8 == 0 else 5) for i in range(64)]
    runner = Scripted(says(*answers))
    engine = scripted_engine(runner, TOKENIZER, eos={256}, max_batch=8)
    got = by_key(engine.generate(ask(f"p{i}", [i], max_new_tokens=100) for i in range(64)))
    assert [got[f"p{i}", 0].text for i in range(64)] == answers
    in_groups = sum(max(len(a) for a in answers[g : g + 8]) for g in range(0, 64, 8))
    assert len(runner.steps) < 0.5 * in_groups


def test_samples_of_a_problem_share_one_prefill_even_when_they_do_not_fit_together() -> None:
    runner = Scripted(mixed)
    engine = scripted_engine(runner, TOKENIZER, eos={256}, max_batch=4)
    requests = [
        ask(f"p{p}", [p, 9, 9], index=k, max_new_tokens=6, temperature=1.0, samples=10)
        for p in range(3)
        for k in range(10)
    ]
    got = by_key(engine.generate(requests))
    assert len(got) == 30
    assert (
        len(runner.prefilled) <= 9
    )  # 30 without sharing; a prompt none of whose samples is active comes anew


def test_any_of_several_end_tokens_ends_and_is_not_part_of_the_answer() -> None:
    engine = scripted_engine(Scripted(says("ab!cd", "abc")), TOKENIZER, eos={256, text_ids("!")[0]})
    got = by_key(engine.generate([ask("0", [0]), ask("1", [1])]))
    assert [(s.text, s.cause) for s in (got["0", 0], got["1", 0])] == [("ab", "eos"), ("abc", "eos")]


@pytest.mark.parametrize(
    ("answer", "stop", "text", "tokens"),
    [
        ("one\n\nQuestion: two", ["\n\nQuestion"], "one", 13),
        ("one. two. three", ["three", ". "], "one", 5),
        ("日本🙂語", ["🙂"], "日本", 10),
        ("never", ["xyz"], "never", 5),
        ("aab", ["ab"], "a", 3),
        ("STOP", ["STOP"], "", 4),
    ],
)
def test_stop_texts_end_an_answer_wherever_tokens_fall(
    answer: str, stop: list[str], text: str, tokens: int
) -> None:
    engine = scripted_engine(Scripted(says(answer)), TOKENIZER, eos={256})
    sample = next(engine.generate([ask("0", [0], stop=stop)]))
    assert (sample.text, len(sample.ids)) == (text, tokens)
    assert sample.cause == ("stop" if text != answer else "eos")


THINK = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("answer", "budget", "text", "forced"),
    [
        ("hm</think>5", 10, "hm</think>5", 0),
        ("hm</think>5", 2, "hm</think>5", 8),
        ("hmmmmmmmmmm 5", 2, "hm</think>m 5", 8),
        ("hmmmmmmmmmm 5", 0, "</think>mmm 5", 8),
        ("hm</thXXXXX", 6, "hm</think>X", 4),
        ("a</think>bcdefghijk", 9, "a</think>bcdefghijk", 0),
    ],
)
def test_the_think_budget_forces_the_rest_of_the_end_marker(
    answer: str, budget: int, text: str, forced: int
) -> None:
    """The script goes by position, so what the forced tokens cover of it is skipped."""
    engine = scripted_engine(Scripted(says(answer)), TOKENIZER, eos={256})
    sample = next(engine.generate([ask("0", [0], max_think_tokens=budget, markers=THINK)]))
    assert (sample.text, sample.forced, sample.cause) == (text, forced, "eos")
    assert len(sample.logps) == len(sample.ids)


def test_the_think_budget_overrides_an_end_token_only_while_it_forces() -> None:
    engine = scripted_engine(Scripted(says("ab")), TOKENIZER, eos={256})
    sample = next(engine.generate([ask("0", [0], max_think_tokens=2, markers=THINK)]))
    assert (sample.text, sample.cause) == ("ab</think>", "eos")


def test_reasoning_that_the_prompt_already_closed_has_no_budget() -> None:
    prompt = [0, *text_ids("<think>\n\n</think>\n\n")]
    runner = Scripted(lambda history: 65 if len(history) < len(prompt) + 20 else 256)
    sample = next(
        scripted_engine(runner, TOKENIZER, eos={256}).generate(
            [ask("0", prompt, max_think_tokens=1, markers=THINK)]
        )
    )
    assert (sample.forced, len(sample.ids)) == (0, 20)


def test_forced_tokens_count_for_the_length_limit() -> None:
    engine = scripted_engine(Scripted(says("hmmmmmmmmmmm")), TOKENIZER, eos={256})
    sample = next(engine.generate([ask("0", [0], max_think_tokens=3, max_new_tokens=6, markers=THINK)]))
    assert (sample.text, sample.cause) == ("hmm</t", "length")


def test_what_cannot_be_served_is_refused_in_words_and_the_rest_is_served() -> None:
    engine = scripted_engine(Scripted(says("a", "b"), max_positions=20), TOKENIZER, eos={256})
    requests = [
        ask("empty", [], max_new_tokens=5),
        ask("long", [0] * 16, max_new_tokens=5),
        ask("unknown", [0, 999], max_new_tokens=5),
        ask("fits", [0] * 1, max_new_tokens=19),
    ]
    got = by_key(engine.generate(requests))
    assert got["fits", 0].text == "a"
    for id, word in (("empty", "empty"), ("long", "20 positions"), ("unknown", "token 999")):
        assert got[id, 0].cause == "error"
        assert word in (got[id, 0].error or "")


def test_a_row_with_broken_logits_does_not_take_the_others_along() -> None:
    runner = Scripted(says("aaaa", "bbbb", "cccc"), bad=lambda h: h[0] == 1 and len(h) == 3)
    got = by_key(scripted_engine(runner, TOKENIZER, eos={256}).generate([ask(str(i), [i]) for i in range(3)]))
    assert got["0", 0].text == "aaaa"
    assert got["2", 0].text == "cccc"
    assert (got["1", 0].cause, got["1", 0].text) == ("error", "bb")
    assert "not finite at token 2" in (got["1", 0].error or "")


def test_out_of_memory_makes_the_batch_smaller_and_loses_nothing() -> None:
    runner = Scripted(mixed, memory=3)
    requests = [ask(f"p{i}", [i], max_new_tokens=8) for i in range(20)]
    got = by_key(scripted_engine(runner, TOKENIZER, eos={256}, max_batch=16).generate(requests))
    assert {k: v.ids for k, v in got.items()} == {(f"p{i}", 0): naive([i], 8)[0] for i in range(20)}
    assert max(runner.steps) <= 3


def test_a_request_that_does_not_fit_alone_fails_alone() -> None:
    runner = Scripted(mixed, memory=0)
    got = by_key(scripted_engine(runner, TOKENIZER, max_batch=2).generate([ask("a", [1]), ask("b", [2])]))
    assert {s.cause for s in got.values()} == {"error"}
    assert "out of memory" in (got["a", 0].error or "")


def test_a_request_larger_than_the_token_bound_runs_alone() -> None:
    runner = Scripted(mixed)
    requests = [ask("big", [1] * 90, max_new_tokens=20), ask("small", [2], max_new_tokens=5)]
    got = by_key(scripted_engine(runner, TOKENIZER, eos={256}, max_batch_tokens=50).generate(requests))
    assert got["big", 0].ids == naive([1] * 90, 20)[0]
    assert got["small", 0].ids == naive([2], 5)[0]


def test_generation_ends_early_when_it_is_asked_to() -> None:
    engine = scripted_engine(Scripted(lambda h: 1), TOKENIZER, on_step=lambda tokens: tokens >= 6)
    assert list(engine.generate([ask("a", [1]), ask("b", [2])])) == []
    assert engine.tokens <= 8
