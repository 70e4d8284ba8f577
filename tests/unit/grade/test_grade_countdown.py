"""Countdown: parsed, never run; exact; every number once."""

from __future__ import annotations

import random
import time
from fractions import Fraction

import pytest

from jobs.data.expressions import ExpressionError
from jobs.data.expressions import work_out as by_python_syntax
from jobs.grade.countdown import Countdown, NotAnExpression, work_out
from jobs.grade.protocol import Answered

NUMS, TARGET = [79, 17, 60], 36


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("<answer>79 - 60 + 17</answer>", "correct", "gives 36"),
        ("<answer>(79-60)+17 = 36</answer>", "correct", "gives 36"),
        ("<answer>36 = (79-60)+17</answer>", "correct", "gives 36"),
        ("<answer>79 − 60 + 17</answer>", "correct", "gives 36"),
        (r"\boxed{79 - 60 + 17}", "correct", "gives 36"),
        (r"\boxed{\left(79 - 60\right) + 17}", "correct", "gives 36"),
        (r"<answer>\boxed{79 - 60 + 17}</answer>", "correct", "gives 36"),
        ("<answer>$79 - 60 + 17$</answer>", "correct", "gives 36"),
        ("<answer>\\(79 - 60 + 17\\)</answer>", "correct", "gives 36"),
        ("<answer>-60 + 79 + 17</answer>", "correct", "gives 36"),
        ("79 - 60 + 17", "correct", "gives 36"),
        ("<answer>the equation is:\n79 - 60 + 17</answer>", "correct", "gives 36"),
        ("<answer>79 - 60 = 19, 19 + 17 = 36</answer>", "wrong", "does not use 17"),
        ("<answer>79 + 60 - 17</answer>", "wrong", "gives 122, not 36"),
        ("<answer>79 - 60</answer>", "wrong", "does not use 17"),
        ("<answer>79 - 60 + 17 + 79 - 79</answer>", "wrong", "uses 79 3 times"),
        ("<answer>36</answer>", "wrong", "uses 36, which is not given"),
        ("<answer>79 - 60 + 17.0</answer>", "wrong", "decimals are not whole numbers"),
        ("<answer>79 / (60 - 60)</answer>", "wrong", "division by zero"),
        ("<answer>79 ** 17</answer>", "wrong", "** is not one of + - * /"),
        ("<answer>79 // 17</answer>", "wrong", "// is not one of + - * /"),
        ("<answer>9**9**9</answer>", "wrong", "** is not one of + - * /"),
        ("<answer>__import__('os').system('true')</answer>", "wrong", None),
        ("<answer>79 - 60 + x</answer>", "wrong", "'x' is not a number"),
        ("<answer>(79 - 60 + 17</answer>", "wrong", "a parenthesis is not closed"),
        ("<answer>79 - 60 + 17)</answer>", "wrong", "')' is not part of an expression"),
        ("<answer>79 -</answer>", "wrong", "the expression breaks off"),
        ("<answer></answer>", "wrong", "the expression breaks off"),
        ("<answer>" + "(" * 300 + "79" + ")" * 300 + "</answer>", "wrong", None),
        ("<answer>" + "9" * 400 + "</answer>", "wrong", "a number of 400 digits"),
        ("<answer>" + "1+" * 300 + "1</answer>", "wrong", None),
        ("words " * 1000, "wrong", "no <answer>, \\boxed or ### holds an answer"),
        ("<think>79 - 60 + 17", "wrong", "the reasoning never ended"),
    ],
)
def test_verdicts(text: str, status: str, reason: str | None) -> None:
    verdict = Countdown().grade(Answered(text, "", {"nums": NUMS, "target": TARGET}))
    assert verdict.status == status, verdict
    assert reason is None or verdict.reason == reason


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\frac{6}{4} \times 2", 3),
        (r"\frac{1}{\frac{1}{2}}", 2),
        (r"6 \div 4", Fraction(3, 2)),
        (r"6 \cdot (4 - 1)", 18),
        ("2*(3+[4-1])", 12),
        ("8/3/2", Fraction(4, 3)),
        ("2 - 3 - 4", -5),
        ("--2", 2),
    ],
)
def test_latex_forms_and_precedence(text: str, value: Fraction | int) -> None:
    from jobs.grade.countdown import clean

    assert work_out(clean(text))[0] == value


def test_exact_where_floats_are_not() -> None:
    item = Answered("<answer>8/(3-8/3)</answer>", "", {"nums": [3, 3, 8, 8], "target": 24})
    assert Countdown().grade(item).correct


def test_a_repeated_number_may_be_used_as_often_as_it_is_given() -> None:
    item = Answered("<answer>(5+5)*5</answer>", "", {"nums": [5, 5, 5], "target": 50})
    assert Countdown().grade(item).correct


def test_numbers_may_stay_unused_where_the_problem_says_so() -> None:
    meta = {"nums": [79, 17, 60, 2], "target": 36}
    text = "<answer>79-60+17</answer>"
    assert not Countdown().grade(Answered(text, "", meta)).correct
    assert Countdown().grade(Answered(text, "", {**meta, "use_all": False})).correct


@pytest.mark.parametrize(
    "meta", [{}, {"nums": [1]}, {"nums": ["x"], "target": 1}, {"nums": None, "target": 1}]
)
def test_a_problem_that_lacks_its_numbers_is_the_graders_error(meta: dict[str, object]) -> None:
    assert Countdown().grade(Answered("1", "", meta)).status == "error"


def test_agrees_with_an_independent_evaluation_on_random_expressions() -> None:
    rng = random.Random(0)

    def expression(depth: int) -> str:
        if depth == 0 or rng.random() < 0.2:
            return str(rng.randint(1, 99))
        inner = f"{expression(depth - 1)} {rng.choice('+-*/')} {expression(depth - 1)}"
        return f"({inner})" if rng.random() < 0.5 else inner

    for _ in range(500):
        text = expression(4)
        try:
            want = by_python_syntax(text)
        except ExpressionError:
            with pytest.raises(NotAnExpression, match="division by zero"):
                work_out(text)
            continue
        value, used = work_out(text)
        assert (value, sorted(used)) == (want[0], sorted(want[2]))


def test_hostile_text_gets_a_verdict_quickly() -> None:
    texts = ["(" * 10**6, "<answer>" + "-" * 10**6, "\\frac{" * 10**5, "9" * 10**6, "<answer>" + "1*" * 10**6]
    begin = time.process_time()
    for text in texts:
        assert not Countdown().grade(Answered(text, "", {"nums": NUMS, "target": TARGET})).correct
    assert time.process_time() - begin < 2.0
