"""How fast, and how long still."""

from __future__ import annotations

import pytest

from jobs.runtime.rate import Rate


def test_rate_is_that_of_the_usual_step_and_eta_counts_the_pauses_in():
    rate = Rate()
    at = 0.0
    rate.add(at, 0)
    at += 100  # compiling, filling caches: the first step says nothing about the others
    rate.add(at, 1)
    for step in range(2, 102):
        at += 2 + (10 if step % 10 == 0 else 0)  # every tenth is followed by a validation
        rate.add(at, step)
    assert rate.per_second() == pytest.approx(0.5)
    assert rate.eta(50) == pytest.approx(50 * 3, rel=0.02)


def test_rate_of_uneven_reports_is_weighted_by_what_was_done():
    rate = Rate()
    for at, step in [(0, 0), (1, 10), (2, 20), (2.001, 21), (3.0, 31), (4.0, 41)]:
        rate.add(at, step)
    assert rate.per_second() == pytest.approx(10, rel=0.02)


def test_rate_forgets_old_times():
    rate = Rate(window=16, recent=8)
    for step in range(100):
        rate.add(step * 10.0, step)
    for step in range(100, 140):
        rate.add(1000 + (step - 100) * 0.1, step)
    assert rate.per_second() == pytest.approx(10)
    assert rate.eta(10) == pytest.approx(1)


@pytest.mark.parametrize("steps", [[], [3], [3, 3], [3, 1]])
def test_rate_says_nothing_from_nothing(steps):
    rate = Rate()
    for i, step in enumerate(steps):
        rate.add(float(i), step)
    assert (rate.per_second(), rate.eta(5)) == (None, None)


def test_the_first_step_alone_tells_no_rate():
    """It holds the loading of the model; an estimate from it would frighten people."""
    rate = Rate()
    for at, step in [(0.0, 0), (90.0, 1)]:
        rate.add(at, step)
    assert (rate.per_second(), rate.eta(99)) == (None, None)
    rate.add(92.0, 2)
    assert (rate.per_second(), rate.eta(98)) == (0.5, 196)


def test_a_clock_that_stands_still_is_no_rate():
    rate = Rate()
    for step in range(5):
        rate.add(7.0, step)
    assert rate.per_second() is None
    assert rate.eta(3) == 0
