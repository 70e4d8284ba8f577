"""95 % intervals: of a mean over runs, and of the difference of two evaluations of the same problems.
Standard library only; README.md says which is used where, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal."""
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % quantile of Student's t with 1..30 degrees of freedom."""
_HALVINGS = 60

Interval = tuple[float, float]


def student(freedom: int) -> float:
    """97.5 % quantile of Student's t; beyond 30 degrees of freedom the expansion in 1/freedom around the
    normal (Abramowitz and Stegun, 26.7.5), there exact to four digits."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % interval (Student's t); None for a single value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, student(n - 1) * deviation / math.sqrt(n)


def paired_proportions(better: float, worse: float, n: int) -> Interval:
    """Score interval of a difference of two proportions of the same n problems (Tango 1998).

    `better`: problems that only the first has right, `worse`: only the second. It excludes 0 exactly where
    McNemar's test (without correction) rejects at 5 %, and has a width where the two never differ. (-1, 1)
    for n = 0.
    """
    if n == 0:
        return -1.0, 1.0
    estimate = (better - worse) / n

    def score(difference: float) -> float:
        # The nuisance parameter (chance that only the second is right) at its constrained maximum likelihood.
        b = (2 * n - better + worse) * difference - better - worse
        root = math.sqrt(max(0.0, b * b + 8 * n * worse * difference * (1 - difference)))
        only_second = (root - b) / (4 * n)
        variance = n * (2 * only_second + difference * (1 - difference))
        excess = better - worse - n * difference
        return excess / math.sqrt(variance) if variance > 1e-15 else math.copysign(math.inf, excess)

    low = -1.0 if estimate == -1 else _root(lambda d: score(d) > Z95, -1.0, estimate)
    high = 1.0 if estimate == 1 else _root(lambda d: score(d) > -Z95, estimate, 1.0)
    return low, high


def _root(before: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that holds from `low` on stops to hold, by bisection."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if before(middle) else (low, middle)
    return (low + high) / 2


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """95 % interval of mean(first - second), the shares of correct samples of the same problems in order.

    One sample each (shares 0 and 1): the score interval. Several: Student's t over the problems, whose
    differences are the independent draws (Miller 2024, arXiv 2411.00640); where all problems differ alike,
    which has no spread, the score interval.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    binary = all(share in (0, 1) for share in (*first, *second))
    if binary or len(set(differences)) <= 1:
        better = math.fsum(d for d in differences if d > 0)
        worse = -math.fsum(d for d in differences if d < 0)
        return paired_proportions(better, worse, len(differences))
    mean, half = mean_interval(differences)
    return max(-1.0, mean - (half or 0.0)), min(1.0, mean + (half or 0.0))
