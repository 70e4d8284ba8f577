"""Rewards for the form of an answer and of the whole text."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reward_views import attempt, latent, view

from jobs.grade.rewards.formats import answer_format, is_mathematics, loose_format, strict_format
from jobs.grade.rewards.view import Frame, View

NUMS = {"nums": [79, 17, 60], "target": 36}
SAME = ("##", "##")


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("79 - 60 + 17", 1),
        ("79 + 60 + 17", 1),
        ("79 - 60 + 17 = 36", 1),
        ("36 = 79 + 60 + 17", 1),
        (r"\frac{79}{17} \times 60", 1),
        ("79 / (60 - 60 / 17)", 0),
        ("79 / (60 - 17)", 1),
        ("79 - 60", 0),
        ("79 - 60 + 17 + 17", 0),
        ("79 - 60 + 18", 0),
        ("36", 0),
        ("79 - 60 + 17.0", 0),
        ("79.60 + 17", 0),
        ("9**9**9", 0),
        ("79**60**17", 0),
        ("79 // 60 // 17", 0),
        ("79 60 17", 0),
        ("79 + 60 + ", 0),
        ("(79 + 60 + 17", 0),
        ("", 0),
        ("x", 0),
    ],
)
def test_a_countdown_takes_the_given_numbers_whatever_they_give(answer: str, value: float) -> None:
    assert answer_format(view(f"<think>t</think>\\boxed{{{answer}}}", meta=NUMS), "countdown") == value


def test_a_division_by_zero_has_no_value_but_the_form() -> None:
    meta = {"nums": [4, 3, 3], "target": 7}
    assert answer_format(view(r"</think>\boxed{4/(3-3)}", meta=meta), "countdown") == 1


def test_a_countdown_may_leave_numbers_out_where_the_problem_says_so() -> None:
    text = r"<think></think>\boxed{79 - 60}"
    assert answer_format(view(text, meta={**NUMS, "use_all": False}), "countdown") == 1
    assert answer_format(view(text, meta=NUMS), "countdown") == 0


@pytest.mark.parametrize("meta", [{}, {"nums": None}, {"nums": ["x"]}])
def test_a_countdown_without_its_numbers_raises(meta: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        answer_format(view("1", meta=meta), "countdown")


@pytest.mark.parametrize(
    ("grader", "gold", "text", "value"),
    [
        ("numeric", "5", r"<think>a</think>\boxed{7}", 1),
        ("numeric", "5", r"<think>a</think>\boxed{ 007 }", 1),
        ("numeric", "5", r"<think>\boxed{7}</think> so seven", 0),
        ("numeric", "5", r"<think>a</think>\boxed{7.0}", 0),
        ("numeric", "5", r"<think>a</think>\boxed{-7}", 0),
        ("numeric", "5", r"<think>a</think>\boxed{1,234}", 0),
        ("numeric", "5", r"<think>a</think>\boxed{7 apples}", 0),
        ("numeric", "5", r"<think>a</think>\boxed{}", 0),
        ("numeric", "5", r"<think>a</think>\boxed{٣}", 0),
        ("numeric", "5", "<think>a</think>7", 1),
        ("numeric", "5", "<think>a</think>It is 7", 0),
        ("numeric", "5", r"<think>never ended \boxed{7}", 0),
        ("numeric", "5", "", 0),
        ("exact", "5", "a\nb\n### 7", 1),
        ("exact", "5", "a\nb\n### seven", 0),
        ("math", "5", r"<think>a</think>\boxed{7}", 1),
        ("math", "5", r"<think>a</think>\boxed{\frac{7}{1}}", 0),
        ("math", r"\frac12", r"<think>a</think>\boxed{7}", 1),
        ("math", r"\frac12", r"<think>a</think>\boxed{\frac{\sqrt{2}}{3}}", 1),
        ("math", r"\frac12", r"<think>a</think>\boxed{\text{no real roots}}", 1),
        ("math", r"\frac12", r"<think>a</think>\boxed{there is no root}", 0),
        ("math", r"\frac12", "<think>a</think>Hence the value is one half.", 0),
        ("choice", "B", r"<think>a</think>\boxed{C}", 1),
        ("choice", "B", r"<think>a</think>\boxed{(C)}", 1),
        ("choice", "B", r"<think>a</think>\boxed{C.}", 1),
        ("choice", "B", r"<think>a</think>\boxed{D}", 0),
        ("choice", "B", r"<think>a</think>\boxed{C or B}", 0),
        ("choice", "B", r"<think>a</think>\boxed{c}", 0),
    ],
)
def test_the_form_of_other_answers(grader: str, gold: str, text: str, value: float) -> None:
    meta = {"choices": ["x", "y", "z"]} if grader == "choice" else {}
    assert answer_format(view(text, gold, meta=meta), grader) == value


@pytest.mark.parametrize(
    "text",
    [
        r"\left( 3, \frac{\pi}{2} \right)",
        "x^2 + 2x + 1",
        r"(-\infty, 2] \cup [3, \infty)",
        r"10\sqrt{3}\text{ square cm}",
        "11,111,111,100",
        r"x \in [-2,7]",
        "3 cm",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        "east",
        "A,B",
    ],
)
def test_mathematics(text: str) -> None:
    assert is_mathematics(text)


@pytest.mark.parametrize(
    "text", ["", "so the answer", "5\n6", "{5", "5}{", r"\boxed{5}", "1" * 301, "x is it", "5, and so on"]
)
def test_no_mathematics(text: str) -> None:
    assert not is_mathematics(text)


PLAIN = [
    # text, loose, strict
    (r"<think>a</think>\boxed{5}", 1, 1),
    ("<think>\na\nb\n</think>\nThe answer is \\boxed{5}.\n", 1, 1),
    (r"a</think>\boxed{5}", 1, 1),
    (r"</think>\boxed{5}", 1, 1),
    (r"<think></think>\boxed{\frac{1}{\sqrt{2}}}", 1, 1),
    (r"<think>a</think>\boxed 5", 1, 1),
    (r"<think>a</think>\boxed{5", 1, 0),
    (r"<think>a</think>\boxed{\boxed{5}}", 1, 0),
    (r"<think>a</think>\boxed{5} or \boxed{6}", 1, 0),
    (r"<think>a</think>\boxed{5} or \fbox{6}", 1, 0),
    (r"<think>a \boxed{5}</think>\boxed{5}", 1, 0),
    (r"<think>a \boxed{5}</think> so five", 1, 0),
    (r"<think>a</think>5", 0, 0),
    (r"<think>a</think>\boxedx{5}", 0, 0),
    (r"<think>a \boxed{5}", 0, 0),
    (r"\boxed{5}", 0, 0),
    ("", 0, 0),
    (r"Well. <think>a</think>\boxed{5}", 1, 0),
    (r"<think>a<think>b</think>c</think>\boxed{5}", 1, 0),
    (r"<think>a</think></think>\boxed{5}", 1, 0),
    (r"<think><think>a</think>\boxed{5}", 1, 0),
    (r"<think>a</think>\boxed{5}<think>", 1, 0),
    (r"<think>a</think>\boxed{5}</think>", 1, 0),
    (r"\boxed{5}<think>a</think>", 1, 0),
]


@pytest.mark.parametrize(("text", "loose", "strict"), PLAIN)
def test_plain(text: str, loose: float, strict: float) -> None:
    assert (loose_format(view(text)), strict_format(view(text))) == (loose, strict)


@pytest.mark.parametrize(("text", "loose", "strict"), PLAIN)
def test_plain_with_other_markers(text: str, loose: float, strict: float) -> None:
    other = text.replace("<think>", "<<").replace("</think>", ">>")
    seen = view(other, markers=("<<", ">>"))
    assert (loose_format(seen), strict_format(seen)) == (loose, strict)


@pytest.mark.parametrize(
    ("text", "prompt", "loose", "strict"),
    [
        (r"## a ## \boxed{5}", "", 1, 1),
        (r"a ## \boxed{5}", "", 1, 1),
        (r"a ## \boxed{5}", "Q: ##\n", 1, 1),
        (r"## \boxed{5}", "Q: ##", 1, 1),
        (r"## \boxed{5}", "", 0, 0),
        (r"## a ## \boxed{5} ##", "", 1, 0),
        (r"## a ## \boxed{5}", "Q: ##", 1, 0),
        (r"## a \boxed{5}", "", 0, 0),
    ],
)
def test_plain_with_equal_markers(text: str, prompt: str, loose: float, strict: float) -> None:
    seen = view(text, prompt=prompt, markers=SAME)
    assert (loose_format(seen), strict_format(seen)) == (loose, strict)


XML = [
    ("<think>a</think><answer>5</answer>", 1.0, 1),
    ("\n<think>\na\n</think>\n<answer>\n5\n</answer>\n", 1.0, 1),
    ("<think></think><answer></answer>", 1.0, 1),
    ("<think>a</think><answer>5</answer>" + "x" * 50, 0.875, 1),
    ("<think>a</think><answer>5</answer>" + "x" * 99, 0.7525, 1),
    ("<think>a</think><answer>5</answer>" + "x" * 100, 0.75, 1),
    ("<think>a</think><answer>5</answer>" + "x" * 5000, 0.75, 1),
    ("<think>a</think> so <answer>5</answer>", 1.0, 0),
    ("so <think>a</think><answer>5</answer>", 1.0, 0),
    ("<answer>5</answer><think>a</think>", 0.75 + 0.25 * (1 - 16 / 100), 0),
    ("<think>a<answer>5</answer></think>", 0.75 + 0.25 * (1 - 8 / 100), 0),
    ("<think>a</think><answer>5", 0.75, 0),
    ("<think>a</think>", 0.5, 0),
    ("<think>a<think>b</think></think><answer>5</answer>", 0.5, 0),
    ("<think>a</think><answer>5</answer><answer>6</answer>", 0.5, 0),
    ("a</think><answer>5</answer>", 0.75, 0),
    ("<THINK>a</THINK><answer>5</answer>", 0.5, 0),
    ("", 0.0, 0),
]


@pytest.mark.parametrize(("text", "loose", "strict"), XML)
def test_xml(text: str, loose: float, strict: float) -> None:
    seen = view(text, form="xml", markers=("<<", ">>"))
    assert loose_format(seen) == pytest.approx(loose)
    assert strict_format(seen) == strict


def test_a_start_tag_in_the_prompt_alone_counts() -> None:
    text = "a</think><answer>5</answer>"
    seen = view(text, form="xml", prompt="Q\n<think>\n")
    assert (loose_format(seen), strict_format(seen)) == (1, 1)
    again = view("<think>" + text, form="xml", prompt="Q\n<think>\n")
    assert (loose_format(again), strict_format(again)) == (1, 1)
    asked = view(text, form="xml", prompt="Write inside <think> </think>.")
    assert (loose_format(asked), strict_format(asked)) == (0.75, 0)


@pytest.mark.parametrize(
    ("form", "text"), [("plain", r"</think>\boxed{5}"), ("xml", "</think><answer>5</answer>")]
)
def test_latent_steps_may_stand_in_place_of_the_words(form: str, text: str) -> None:
    inside = view(text, form=form, latent=latent(), latents=7)
    assert (loose_format(inside), strict_format(inside)) == (1, 1)
    by_model = view("<think>" + text, form=form, latent=latent(start="model"), latents=7)
    assert (loose_format(by_model), strict_format(by_model)) == (1, 1)


PIECES = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            r"\boxed{",
            r"\boxed{5}",
            "}",
            "5",
            " ",
            "\n",
            "x" * 40,
            "###",
            "##",
        ]
    ),
    max_size=12,
).map("".join)
ANY = st.one_of(PIECES, st.text(max_size=60))


@given(ANY, st.sampled_from(["plain", "xml"]), st.sampled_from(["", "Q <think>", "##"]), st.booleans())
def test_ranges_hold_for_any_text(text: str, form: str, prompt: str, same: bool) -> None:
    seen = View(
        attempt(text, prompt=prompt, markers=SAME if same else ("<think>", "</think>")), Frame(form, None)
    )
    loose, strict = loose_format(seen), strict_format(seen)
    assert 0 <= loose <= 1
    assert strict in (0, 1)
    if form == "plain":
        assert loose in (0, 1)
        assert strict <= loose
    else:
        assert loose >= 0.75 * strict
    for grader in ("numeric", "math", "choice", "exact"):
        assert answer_format(seen, grader) in (0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 200_000,
        r"\boxed{" * 200_000,
        "{" * 10**6,
        "<think>a</think>" + r"\boxed{" + "\\" * 10**6,
        "a " * 10**6,
        "<think>" + "a " * 10**6 + "</think><answer>" + "b " * 10**6,
    ],
)
@pytest.mark.parametrize("form", ["plain", "xml"])
def test_very_long_texts_are_judged_quickly(form: str, text: str) -> None:
    begin = time.process_time()
    seen = view(text, r"\frac12", form=form, meta=NUMS)
    loose_format(seen)
    strict_format(seen)
    for grader in ("countdown", "math", "numeric"):
        answer_format(seen, grader)
    assert time.process_time() - begin < 4.0
