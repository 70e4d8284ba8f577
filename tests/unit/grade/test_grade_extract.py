"""Where an answer is read from."""

from __future__ import annotations

import time

import pytest

from jobs.grade.extract import answer_part, marked, plain_signs
from jobs.grade.protocol import Answered


@pytest.mark.parametrize(
    ("text", "answer", "how"),
    [
        (r"so \boxed{5}", "5", "\\boxed"),
        (r"first \boxed{5}, then \boxed{\frac{1}{2}}", r"\frac{1}{2}", "\\boxed"),
        (r"\boxed{a{b{c}}d}", "a{b{c}}d", "\\boxed"),
        (r"\fbox{7}", "7", "\\boxed"),
        ("<answer>3</answer>", "3", "<answer>"),
        ("<answer>1</answer> no: <answer> 2\n</answer>", "2", "<answer>"),
        (r"\boxed{1} <answer>\boxed{2}</answer>", "2", "<answer>"),
        ("<answer>cut off", "cut off", "<answer>"),
        ("<ANSWER>3</ANSWER>", "3", "<answer>"),
        ("3*4=12\n### 12", "12", "###"),
        ("#### 1,234\nand so on", "1,234", "###"),
        ("### first\n### second", "second", "###"),
    ],
)
def test_the_marked_answer_is_found(text: str, answer: str, how: str) -> None:
    found = marked(text)
    assert found is not None
    assert (found.text, found.how) == (answer, how)


@pytest.mark.parametrize("text", ["42", "# 42", r"\boxed{never closed", "###", "", "</answer>"])
def test_nothing_is_invented_where_nothing_is_marked(text: str) -> None:
    assert marked(text) is None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (r"<think>\boxed{1}</think>\boxed{2}", r"\boxed{2}"),
        ("no reasoning at all", "no reasoning at all"),
        ("reasoning opened by the prompt</think> 5", "5"),
        ("<think>a</think><think>b</think> c", "c"),
        ("<think>never ended \\boxed{1}", None),
        ("5<|eot_id|><|endoftext|></s>", "5"),
        ("", ""),
    ],
)
def test_only_what_follows_the_reasoning_counts(text: str, part: str | None) -> None:
    assert answer_part(Answered(text, "")) == part


def test_own_markers_are_respected() -> None:
    assert answer_part(Answered("<<1+1=2>> 2", "", markers=("<<", ">>"))) == "2"
    assert answer_part(Answered("<<1+1=2>> 2", "", markers=("", ""))) == "<<1+1=2>> 2"


def test_unicode_signs_become_ascii() -> None:
    assert plain_signs("３ − 1 × 2 ÷ 4 – 5 ⋅ 6") == "3 - 1 * 2 / 4 - 5 * 6"


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 100_000, "<answer>" * 100_000, "#" * 1_000_000, "<think>" + "x" * 5_000_000]
)
def test_hostile_text_is_read_quickly(text: str) -> None:
    begin = time.process_time()
    part = answer_part(Answered(text, ""))
    if part is not None:
        marked(part)
    assert time.process_time() - begin < 2.0
