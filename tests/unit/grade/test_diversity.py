"""How different answers are, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jobs.grade.diversity import bleu, report, rouge_l, searched, simplified


def test_bleu_by_hand() -> None:
    a = ["a", "b", "c", "d", "e", "f"]
    assert bleu(a, a) == pytest.approx(1.0)
    assert bleu(a, ["u", "v", "w", "x", "y", "z"]) == 0.0
    other = ["a", "b", "c", "d", "x", "f"]  # 2 of 4 trigrams, 1 of 3 4-grams
    assert bleu(a, other) == pytest.approx(math.sqrt((2 / 4) * (1 / 3)))
    short = a[:5]  # all its n-grams are there; brevity 1 - 6/5
    assert bleu(short, a) == pytest.approx(math.exp(-0.2))
    assert bleu(["a"], a) == 0.0


def test_rouge_by_hand() -> None:
    a, b = (
        ["the", "cat", "sat", "on", "the", "mat"],
        ["the", "cat", "was", "on", "a", "mat"],
    )  # the cat on mat: 4 of 6
    assert rouge_l(a, b) == pytest.approx(2 / 3)
    assert rouge_l(a, a) == 1.0
    assert rouge_l(a, []) == rouge_l([], a) == 0.0
    assert rouge_l(["a", "b"], ["a", "x", "y", "z"]) == pytest.approx(2 * 0.5 * 0.25 / 0.75)


def row(id: str, index: int, text: str, answer: str | None, **branch: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"id": id, "index": index, "text": text, "extracted": answer}
    return found | ({"branch": branch} if branch else {})


def test_a_report_leaves_doubles_out() -> None:
    first = {"parent": None, "birth": 0, "duplicate": False}
    rows = [
        row("a", 0, "one two three four five", "1 + 2", **first),
        row("a", 1, "one two three four six", "1+2", parent=0, birth=4, duplicate=False),
        row("a", 2, "one two three four five", "1 + 2", parent=None, birth=0, duplicate=True),
        row("b", 0, "x", None, **first),
    ]
    found = report(rows)
    assert found["answers"] == 1.0
    assert found["sequences"] == 1.5
    assert found["bleu"] == pytest.approx(math.sqrt((2 / 3) * (1 / 2)))
    assert found["rouge_l"] == pytest.approx(4 / 5)
    assert searched(rows) == {"rows": 1.5, "doubles": 0.5, "depth": 0.5}


def test_nothing_to_compare() -> None:
    assert report([row("a", 0, "x", "1")])["bleu"] is None


def test_answers_that_differ_in_nothing_that_counts() -> None:
    assert simplified(" 3 × (4 − 1)") == simplified("3*(4-1)")
    assert simplified(None) == ""
