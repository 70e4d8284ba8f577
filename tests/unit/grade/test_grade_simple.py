"""The graders numeric, choice, exact and prosqa, by tables of texts and verdicts."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import pytest

from jobs.grade.numbers import number, numbers_in, show
from jobs.grade.protocol import Answered
from jobs.grade.simple import Choice, Exact, Numeric, Prosqa

HUGE = "9" * 100_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-3", -3),
        ("−3", -3),
        ("1,234", 1234),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("1{,}234", 1234),
        ("$1,000", 1000),
        ("\\$18.90", Fraction(189, 10)),
        ("50%", 50),
        ("20\\%", 20),
        ("007", 7),
        ("204.", 204),
        ("\\text{204}", 204),
        (".5", Fraction(1, 2)),
        ("27.0", 27),
        ("3/4", Fraction(3, 4)),
        ("-\\frac{3}{4}", Fraction(-3, 4)),
        ("\\dfrac{45}{9}", 5),
        ("1e3", 1000),
        ("2.5e-1", Fraction(1, 4)),
        ("", None),
        ("x", None),
        ("1 2", None),
        ("1/0", None),
        (HUGE, None),
        ("1e999999999", None),
        ("18 dollars", None),
    ],
)
def test_a_number_is_read_exactly_or_not_at_all(text: str, value: Fraction | int | None) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("3 apples and 4 pears", [3, 4]),
        ("5-3", [5, 3]),
        ("x = -3", [-3]),
        ("(2)-1", [2, 1]),
        ("1.2.3", [Fraction(6, 5), Fraction(3, 10)]),
        ("12,34", [12, 34]),
        ("1,000,000 of 2", [1_000_000, 2]),
        ("v2", [2]),
        ("e", []),
        ("- - -", []),
    ],
)
def test_numbers_of_a_text(text: str, values: list[Fraction | int]) -> None:
    assert numbers_in(text) == values


def test_numbers_are_shown_as_people_write_them() -> None:
    assert [show(Fraction(x)) for x in ("42", "1/2", "1/3", "-5/4")] == ["42", "0.5", "1/3", "-1.25"]


def check(grader: Any, text: str, gold: str, status: str, extracted: str | None, **meta: Any) -> None:
    verdict = grader.grade(Answered(text, gold, meta))
    assert (verdict.status, verdict.extracted) == (status, extracted), verdict.reason
    assert verdict.reason


@pytest.mark.parametrize(
    ("text", "gold", "status", "extracted"),
    [
        (r"\boxed{18}", "18", "correct", "18"),
        (r"\boxed{18.0}", "18", "correct", "18"),
        ("#### 1,234", "1234", "correct", "1234"),
        ("### 12", "12", "correct", "12"),
        ("<answer>18 dollars</answer>", "18", "correct", "18"),
        ("<answer>9 * 2 = 18 dollars a day</answer>", "18", "correct", "18"),
        ("she makes 9*2 = 18", "18", "correct", "18"),
        ("The answer is 18.", "18", "correct", "18"),
        ("18, I think, or 20", "18", "wrong", "20"),
        (r"\boxed{-5}", "5", "wrong", "-5"),
        ("<think>18</think>", "18", "wrong", None),
        ("<think>18", "18", "wrong", None),
        ("no idea", "18", "wrong", None),
        ("", "18", "wrong", None),
        ("18", "eighteen", "error", None),
        ("025", "25", "correct", "25"),
        (r"\boxed{\frac{1}{3}}", "0.333333", "wrong", "1/3"),
        (HUGE, "18", "wrong", None),
    ],
)
def test_numeric(text: str, gold: str, status: str, extracted: str | None) -> None:
    check(Numeric(), text, gold, status, extracted)


CHOICES = ["red", "green", "blue, or so", "The red one"]


@pytest.mark.parametrize(
    ("text", "gold", "status", "extracted"),
    [
        ("B", "B", "correct", "B"),
        ("(B)", "B", "correct", "B"),
        ("b.", "B", "correct", "B"),
        ("B. green", "B", "correct", "B"),
        (r"\boxed{B}", "B", "correct", "B"),
        (r"\boxed{\text{B}}", "B", "correct", "B"),
        ("<answer>green</answer>", "B", "correct", "B"),
        ("<answer>Blue, or so</answer>", "C", "correct", "C"),
        ("I believe that the answer is (D).", "D", "correct", "D"),
        ("The answer: **C**", "C", "correct", "C"),
        ("answer is A. No, the answer is B", "B", "correct", "B"),
        ("the answer is Eve", "A", "wrong", "the answer is Eve"),
        (r"\boxed{E}", "A", "wrong", "E"),
        ("A or B", "A", "wrong", "A or B"),
        ("A", "E", "error", None),
        ("A", "green", "error", None),
    ],
)
def test_choice(text: str, gold: str, status: str, extracted: str | None) -> None:
    check(Choice(), text, gold, status, extracted, choices=CHOICES)


@pytest.mark.parametrize(
    ("text", "gold", "status", "extracted"),
    [
        ("<<1+1=2>>\n### 2", "2", "correct", "2"),
        ("### 1,234", "1234", "correct", "1,234"),
        ("# 12", "12", "correct", "12"),
        ("12", "12", "correct", "12"),
        ("### 2.0", "2", "wrong", "2.0"),
        ("###", "2", "wrong", ""),
        (r"<think>cup 2</think>\boxed{3}", "3", "correct", "3"),
        ("True", "True", "correct", "True"),
        ("true", "True", "wrong", "true"),
    ],
)
def test_exact(text: str, gold: str, status: str, extracted: str) -> None:
    check(Exact(), text, gold, status, extracted)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Tom is a terpus.\n### Tom is a lempus.", "correct"),
        ("### tom is a lempus", "correct"),
        ("### lempus", "correct"),
        ("### a lempus", "correct"),
        ("### Tom is a scrompus.", "wrong"),
        ("### Sam is a lempus.", "wrong"),
        ("### Tom is a lempus or a scrompus", "wrong"),
        ("### Tom is a scrompus. Tom is a lempus.", "correct"),
        ("Tom is a terpus. Every terpus is a lempus. Tom is a lempus.", "correct"),
        ("###", "wrong"),
        ("", "wrong"),
    ],
)
def test_prosqa(text: str, status: str) -> None:
    item = Answered(text, "Tom is a lempus.", {"root": "Tom", "target": "lempus", "neg_target": "scrompus"})
    assert Prosqa().grade(item).status == status


@pytest.mark.parametrize("grader", [Numeric(), Choice(), Exact(), Prosqa()])
@pytest.mark.parametrize(
    "text",
    [
        HUGE,
        "(" * 200_000,
        "1," * 200_000,
        "answer is " * 50_000,
        "-" * 300_000,
        "\\frac{" * 50_000,
        "\x00\ud800",
    ],
)
def test_hostile_text_gets_a_verdict_quickly(grader: Any, text: str) -> None:
    begin = time.process_time()
    verdict = grader.grade(Answered(text, "A" if isinstance(grader, Choice) else "7"))
    assert verdict.status == "wrong"
    assert len(verdict.extracted or "") < 500
    assert time.process_time() - begin < 2.0
