"""Rewards for the length of reasoning and answer, and for an answer that does not go on reasoning."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reward_views import attempt, latent, view

from jobs.grade.rewards.lengths import answer_len, answer_no_think, is_reasoning, latent_len, response_think
from jobs.grade.rewards.view import Frame, View


@pytest.mark.parametrize(
    ("correct", "latents", "value"),
    [
        (True, 0, 1.0),
        (True, 50, 1.0),
        (True, 75, 0.5),
        (True, 90, 0.2),
        (True, 100, 0.0),
        (True, 250, 0.0),
        (False, 0, -1.0),
        (False, 45, -0.5),
        (False, 90, 0.0),
        (False, 100, 0.0),
        (False, 250, 0.0),
    ],
)
def test_latent_len(correct: bool, latents: int, value: float) -> None:
    assert latent_len(correct=correct, latents=latents, longest=100) == pytest.approx(value)


@given(st.booleans(), st.integers(0, 10**6), st.integers(1, 10**6))
def test_latent_len_is_in_range(correct: bool, latents: int, longest: int) -> None:
    value = latent_len(correct=correct, latents=latents, longest=longest)
    assert 0 <= value <= 1 if correct else -1 <= value <= 0


@pytest.mark.parametrize(
    ("words", "reasoning", "other"),
    [
        (0, 0.0, 1),
        (1, 0.01, 1),
        (29, 0.29, 1),
        (30, 1.0, 0),
        (31, 1.0, 0),
        (1000, 1.0, 0),
        (1001, 0.999, 0),
        (1500, 0.5, 0),
        (1999, 0.001, 0),
        (2000, 0.0, 0),
        (5000, 0.0, 0),
    ],
)
def test_answer_len(words: int, reasoning: float, other: float) -> None:
    seen = view("<think>a b c</think>" + "word " * words)
    assert answer_len(seen, reasoning=True) == pytest.approx(reasoning)
    assert answer_len(seen, reasoning=False) == other


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<think>a b</think> one two three", 3),
        ("a b</think> one two three", 3),
        ("before it <think>a b</think> one two three", 3),
        ("<think>a</think> one <think>b c</think> two three", 3),
        ("<think>a <think>b</think> c</think> one two three", 3),
        ("<think>a</think>one<think>b</think>two three", 3),
        ("<think>a</think> one two three<|eot_id|>", 3),
        ("<think>a</think> one two three <think>never ended", 3),
        ("<think>a b c", None),
        ("one two three", None),
        ("", None),
    ],
)
def test_the_words_behind_the_reasoning_count(text: str, words: int | None) -> None:
    seen = view(text)
    assert answer_len(seen, reasoning=True) == pytest.approx(0 if words is None else words / 100)
    assert answer_len(seen, reasoning=False) == (words is not None)


@pytest.mark.parametrize("form", ["plain", "coconut", "answer"])
def test_where_the_markers_of_latent_spans_are_not_shown_all_words_are_behind_them(form: str) -> None:
    hidden = latent("coconut")
    markers = ("", "") if form == "coconut" else ("<think>", "</think>")
    said = {"form": form, "latent": hidden, "markers": markers}
    assert answer_len(view("one two", latents=6, **said), reasoning=True) == pytest.approx(0.02)
    assert answer_len(view("", latents=6, truncated=True, **said), reasoning=False) == 0
    assert answer_len(view("one two", latents=0, **said), reasoning=False) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"<think>hmm wait, hmm</think>\boxed{5}", 1.0),
        (r"<think>a</think>Wait, hmm \boxed{5}", 1.0),
        ("<think>a</think>Wait, hmm, okay, I need 5", 0.2),
        ("<think>a</think>Wait for it", 1.0),
        ("<think>a</think>HMM " + "hmm " * 3, 0.2),
        ("<think>a</think>" + "hmm " * 5, 0.0),
        ("<think>a</think>" + "hmm " * 50, 0.0),
        ("<think>a</think>hmmhmm", 0.6),
        (r"<think>a</think>\boxed{5 \text{wait, I need}}", 0.6),
        ("<think>a</think><answer>okay, 5</answer>", 0.8),
        ("<think>a</think>", 0.0),
        ("<think>never ended", 0.0),
        ("", 0.0),
    ],
)
def test_answer_no_think(text: str, value: float) -> None:
    assert answer_no_think(view(text)) == pytest.approx(value)


def words(count: int) -> str:
    return "word " * count


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"<think>{words(250)}</think>5", 0.5),
        (f"<think>{words(500)}</think>5", 1.0),
        (f"<think>{words(5000)}</think>5", 1.0),
        ("<think></think>5", 0.0),
        (f"<think>{words(250)}", 0.0),
        (f"{words(250)}</think>5", 0.0),
        (words(250), 0.0),
        ("", 0.0),
        (f"<think>{words(50)}</think>5<think>{words(250)}</think>", 0.1),
        (f"<think>{words(50)}<think>{words(50)}</think>{words(50)}</think>5", 0.3),
        (f"x <think>{words(50)}</think>5", 0.1),
        (f"<think>{words(50)}</think>5<think>", 0.1),
    ],
)
def test_response_think_of_words(text: str, value: float) -> None:
    assert response_think(view(text)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("prompt", "value"),
    [
        ("Q\n<think>", 0.5),
        ("Q\n<think>\n", 0.5),
        ("Q", 0.0),
        ("Write between <think> and </think>.", 0.0),
        ("<think>\n\n</think>\n", 0.0),
    ],
)
def test_the_start_marker_may_stand_in_the_prompt_alone(prompt: str, value: float) -> None:
    assert response_think(view(f"{words(250)}</think>5", prompt=prompt)) == pytest.approx(value)
    assert response_think(view(words(250), prompt=prompt)) == 0
    assert response_think(view(f"<think>{words(250)}</think>5", prompt=prompt)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "prompt", "value"),
    [
        (f"##{words(250)}##5", "Q", 0.5),
        (f"{words(250)}##5", "Q ##", 0.5),
        (f"{words(250)}##5", "Q", 0.0),
        (f"##{words(250)}", "Q", 0.0),
        (words(250), "Q ##", 0.0),
        (f"##{words(50)}##5##{words(250)}##", "Q", 0.1),
    ],
)
def test_response_think_between_equal_markers(text: str, prompt: str, value: float) -> None:
    assert response_think(view(text, prompt=prompt, markers=("##", "##"))) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "start", "value"),
    [
        ("</think>5", "prompt", 0.5),
        ("<think></think>5", "model", 0.5),
        ("</think>5", "model", 0.0),
        ("", "prompt", 0.0),
        ("<think>", "model", 0.0),
    ],
)
def test_response_think_of_latent_steps(text: str, start: str, value: float) -> None:
    seen = view(text, latent=latent(start=start), latents=250, prompt="Q")
    assert response_think(seen) == pytest.approx(value)


def test_latent_steps_count_for_words_around_them() -> None:
    text = f"<think>{words(400)}</think>5"
    assert response_think(view(text, latent=latent(start="model"), latents=50)) == pytest.approx(0.1)
    assert response_think(view(text, latent=latent(start="model"), latents=0)) == pytest.approx(0.8)


@pytest.mark.parametrize("form", ["plain", "xml", "coconut", "answer"])
def test_response_think_of_spans_whose_markers_are_not_shown(form: str) -> None:
    markers = ("", "") if form == "coconut" else ("<think>", "</think>")
    said = {"form": form, "latent": latent("coconut"), "markers": markers}
    assert response_think(view("5", latents=250, **said)) == pytest.approx(0.5)
    assert response_think(view("", latents=250, truncated=True, **said)) == 0
    assert response_think(view("5", latents=0, **said)) == 0


def test_a_form_without_reasoning_hides_even_its_own_markers() -> None:
    """The prompt ends with the span's start marker, and its end is left out of the text."""
    seen = view("5", form="answer", latent=latent("think"), latents=250, prompt="Q<think>")
    assert response_think(seen) == pytest.approx(0.5)
    assert answer_len(seen, reasoning=False) == 1


@pytest.mark.parametrize(
    ("model", "reasoning"),
    [
        ("Qwen/Qwen3-1.7B", True),
        ("Qwen/Qwen3-1.7B-Base", False),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", True),
        ("deepseek-ai/deepseek-llm-7b-base", False),
        ("Qwen/Qwen2.5-3B-Instruct", False),
        ("/models/qwen3-0.6b/", True),
        ("/base/models/qwen3-0.6b", True),
        ("/qwen3/models/gpt2", False),
        ("hub/models--Qwen--Qwen3-4B/snapshots/" + "0a" * 20, True),
        ("hub/models--Qwen--Qwen3-4B-Base/snapshots/" + "0a" * 20, False),
        ("", False),
        (None, False),
    ],
)
def test_reasoning_models(model: str | None, reasoning: bool) -> None:
    assert is_reasoning(model) is reasoning


PIECES = st.lists(
    st.sampled_from(
        ["<think>", "</think>", r"\boxed{5}", "hmm ", "wait, ", "a b ", "##", "\n", "word " * 200]
    ),
    max_size=10,
).map("".join)


@given(
    st.one_of(PIECES, st.text(max_size=60)),
    st.sampled_from(["plain", "xml", "answer"]),
    st.sampled_from(["", "Q <think>", "##"]),
    st.booleans(),
    st.sampled_from([None, latent(), latent("coconut"), latent(start="model")]),
    st.integers(0, 2000),
)
def test_ranges_hold_for_any_text(
    text: str, form: str, prompt: str, same: bool, settings: object, latents: int
) -> None:
    one = attempt(
        text, prompt=prompt, markers=("##", "##") if same else ("<think>", "</think>"), latents=latents
    )
    seen = View(one, Frame(form, settings))  # pyright: ignore[reportArgumentType]
    assert 0 <= answer_len(seen, reasoning=True) <= 1
    assert answer_len(seen, reasoning=False) in (0, 1)
    assert 0 <= answer_no_think(seen) <= 1
    assert 0 <= response_think(seen) <= 1


@pytest.mark.parametrize(
    "text",
    ["hmm " * 10**6, "<think>" + "a " * 10**6 + "</think>" + "b " * 10**6, "<think>a</think>b " * 50_000],
)
def test_very_long_texts_are_judged_quickly(text: str) -> None:
    begin = time.process_time()
    seen = view(text)
    answer_len(seen, reasoning=True)
    answer_no_think(seen)
    response_think(seen)
    assert time.process_time() - begin < 4.0
