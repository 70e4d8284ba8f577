"""The pool: hard limits, replacements, memory of verdicts; and math, which lives in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.grade.pool import Pool
from jobs.grade.protocol import Answered
from jobs.grade.registry import get
from jobs.runtime.errors import JobUserError

PLUGIN = str(Path(__file__).with_name("hanging_graders.py"))


def test_what_hangs_crashes_or_raises_is_an_error_and_the_rest_is_graded() -> None:
    texts = ["a", "hang", "b", "spin", "die", "c", "raise", "memory", "a"]
    with Pool("wild", timeout=1.0, workers=2, plugins=[PLUGIN]) as pool:
        begin = time.monotonic()
        verdicts = list(pool.grade([Answered(t, "a") for t in texts]))
        assert time.monotonic() - begin < 60
        assert pool.restarts == 3
    status = [v.status for v in verdicts]
    assert status == ["correct", "error", "wrong", "error", "error", "wrong", "error", "error", "correct"]
    assert verdicts[1].reason == verdicts[3].reason == "timed out after 1 s"
    assert verdicts[4].reason == "the grader's process died: exit code 3"
    assert "RuntimeError: broken" in verdicts[6].reason
    assert "MemoryError" in verdicts[7].reason
    assert str(os.getpid()) not in verdicts[0].reason


def test_no_process_outlives_the_pool() -> None:
    with Pool("wild", timeout=5.0, workers=2, plugins=[PLUGIN]) as pool:
        verdict = next(iter(pool.grade([Answered("x", "y")])))
    pid = int(verdict.reason.removeprefix("pid "))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_equal_questions_are_asked_once() -> None:
    with Pool("wild", timeout=5.0, workers=1, plugins=[PLUGIN]) as pool:
        first = list(pool.grade([Answered("x", "y")] * 3))
        again = list(pool.grade([Answered("x", "y"), Answered("x", "y", {"other": 1})]))
        assert len(pool._known) == 2
    assert len({v.reason for v in first + again}) == 1


def test_a_grader_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(JobUserError) as caught:
        get("nummeric")
    assert "did you mean 'numeric'" in (caught.value.hint or "")


@pytest.fixture(scope="module")
def math_pool() -> Iterator[Pool]:
    pytest.importorskip("math_verify")
    with Pool("math", timeout=2.0, workers=2) as pool:
        yield pool


MATH = [
    (r"\boxed{\frac{1}{2}}", "0.5", "correct"),
    (r"\boxed{\frac12}", r"\frac{1}{2}", "correct"),
    (r"\boxed{0.5}", r"\frac{1}{2}", "correct"),
    (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", "correct"),
    (r"\boxed{(3, \frac{\pi}{2})}", r"\left( 3, \frac{\pi}{2} \right)", "correct"),
    (r"\boxed{x = 5}", "5", "correct"),
    (r"\boxed{1,234}", "1234", "correct"),
    (r"\boxed{20\%}", "20", "correct"),
    (r"\boxed{\text{B}}", "B", "correct"),
    (r"\boxed{18.90}", r"\$18.90", "correct"),
    (r"\boxed{025}", "25", "correct"),
    (r"\boxed{x^2 + 2x + 1}", "(x+1)^2", "correct"),
    (r"\boxed{(1, 2)}", "(2, 1)", "wrong"),
    (r"\boxed{5}", "6", "wrong"),
    (r"\boxed{}", "6", "wrong"),
    ("The answer is $\\frac{3}{4}$.", "0.75", "correct"),
    ("So we get 12. The final answer is 13.", "13", "correct"),
    (r"<think>\boxed{6}", "6", "wrong"),
    ("", "6", "wrong"),
    (r"\boxed{\frac{1}{0}}", "6", "wrong"),
]


def test_math_verdicts() -> None:
    with Pool("math", timeout=60.0, workers=2) as pool:  # a busy machine is no reason for another verdict
        verdicts = list(pool.grade([Answered(text, gold) for text, gold, _ in MATH]))
    for (text, gold, status), verdict in zip(MATH, verdicts, strict=True):
        assert verdict.status == status, (text, gold, verdict)
        assert verdict.reason


HOSTILE = [
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{9**9**9}",
    r"\boxed{(10^{10^{10}})!}",
    r"\boxed{" + "9" * 5000 + "}",
    r"\boxed{" + "(" * 400 + "1" + ")" * 400 + "}",
    r"\boxed{" + r"\frac{1}{" * 100 + "2" + "}" * 100 + "}",
    r"\boxed{__import__('os').system('touch pwned')}",
    "$" * 50_000,
    "x" * 2_000_000,
    r"\boxed{\sum_{n=1}^{10^{9}} \frac{1}{n^{n}}}",
]


def test_hostile_answers_are_never_correct_and_never_hang(math_pool: Pool, tmp_path: Path) -> None:
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        begin = time.monotonic()
        verdicts = list(math_pool.grade([Answered(text, "7") for text in HOSTILE]))
    finally:
        os.chdir(before)
    assert time.monotonic() - begin < 15 * len(HOSTILE)
    assert all(v.status in ("wrong", "error") for v in verdicts)
    assert list(tmp_path.iterdir()) == []
    assert next(math_pool.grade([Answered(r"\boxed{14/2}", "7")])).correct


def test_golds_that_are_no_mathematics(math_pool: Pool) -> None:
    items = [
        Answered(r"\boxed{4:30}", "4:30"),
        Answered(r"\boxed{5}", "4:30 p.m."),
        Answered(r"\boxed{5}", " "),
    ]
    verdicts = list(math_pool.grade(items))
    assert [v.status for v in verdicts] == ["correct", "wrong", "error"]
    assert verdicts[2].reason == "there is no gold answer"
