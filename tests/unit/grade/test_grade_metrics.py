"""Closed forms and enumerations."""

from __future__ import annotations

import itertools
import random

import pytest

from jobs.grade.judge import summary
from jobs.grade.metrics import accuracy_interval, bootstrap, majority, pass_at_k, powers, wilson


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775327998628892),  # z²/(n+z²)
        (10, 10, 0.7224672001371107, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_equals_the_closed_form(correct: int, n: int, low: float, high: float) -> None:
    assert wilson(correct, n) == pytest.approx((low, high), abs=1e-9)


def test_wilson_solves_its_own_equation() -> None:
    """The bounds are the p at which the observed share lies z standard errors away."""
    for correct, n in [(3, 17), (50, 200), (1, 2)]:
        for p in wilson(correct, n):
            assert abs(correct / n - p) == pytest.approx(1.959963984540054 * (p * (1 - p) / n) ** 0.5)


def test_pass_at_k_equals_the_enumeration_of_all_subsets() -> None:
    for n in range(1, 8):
        for correct in range(n + 1):
            flags = [i < correct for i in range(n)]
            for k in range(1, n + 1):
                subsets = list(itertools.combinations(flags, k))
                assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(("n", "correct", "k"), [(2, 1, 3), (2, 3, 1), (2, -1, 1), (2, 1, 0)])
def test_pass_at_k_refuses_what_has_no_meaning(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, correct, k)


def test_pass_at_1_is_the_mean() -> None:
    assert pass_at_k(7, 3, 1) == pytest.approx(3 / 7)


@pytest.mark.parametrize(("k", "want"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (16, [1, 2, 4, 8, 16])])
def test_shown_ks(k: int, want: list[int]) -> None:
    assert powers(k) == want


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        ([("5", True), ("5", True), ("6", False)], 1.0),
        ([("6", False), ("6", False), ("5", True)], 0.0),
        ([("5", True), ("6", False)], 0.5),
        ([("5", True), ("6", False), ("7", False)], 1 / 3),
        ([("1/2", True), ("0.5", True), ("6", False), ("6", False)], 0.5),
        ([("1/2", True), ("0.5", True), ("6", False)], 1.0),
        ([(None, False), (None, False), ("5", True)], 1.0),
        ([(None, False)], 0.0),
        ([], 0.0),
    ],
)
def test_majority_shares_ties_and_ignores_silence(
    answers: list[tuple[str | None, bool]], share: float
) -> None:
    assert majority(answers) == pytest.approx(share)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    """300 studies of 60 problems with 4 dependent samples each: about 95 % of the intervals hold the mean."""
    rng = random.Random(1)
    hits = 0
    for study in range(300):
        shares = []
        for _ in range(60):
            p = rng.choice([0.1, 0.5, 0.9])
            shares.append(sum(rng.random() < p for _ in range(4)) / 4)
        low, high = bootstrap(shares, draws=400, seed=study)
        hits += low <= 0.5 <= high
    assert 0.90 <= hits / 300 <= 0.99


def test_the_interval_has_width_even_where_all_problems_agree() -> None:
    assert accuracy_interval([1.0] * 10, 4) == wilson(10, 10)
    assert accuracy_interval([1.0, 0.0], 1) == wilson(1, 2)


def row(id: str, index: int, verdict: str, extracted: str | None = "1", **other: object) -> dict[str, object]:
    return {"id": id, "index": index, "verdict": verdict, "extracted": extracted, "tokens": 4,
            "cause": "eos", "forced": 0, **other}  # fmt: skip


def test_summary_counts_each_problem_once() -> None:
    rows = [
        row("a", 0, "correct"),
        row("a", 1, "correct"),
        row("a", 2, "wrong", "7"),
        row("b", 0, "wrong", "7"),
    ]
    rows += [row("b", 1, "wrong", "8"), row("b", 2, "error", None, cause="length", tokens=10)]
    found = summary(rows)
    assert (found["n"], found["k"], found["graded_errors"]) == (2, 3, 1)
    assert found["accuracy"] == found["avg_at_k"] == pytest.approx(1 / 3)
    assert found["pass_at_k"] == {"1": pytest.approx(1 / 3), "2": 0.5, "3": 0.5}
    assert found["maj_at_k"] == 0.5
    assert found["truncated"] == pytest.approx(1 / 6)
    assert found["stop_causes"] == {"eos": 5, "length": 1}
    assert found["tokens_mean"] == 5.0


def test_summary_of_nothing_is_not_a_crash() -> None:
    assert summary([])["accuracy_ci"] == [0.0, 1.0]
