"""The intervals against published values, independent computations and simulations."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from latentctl.report.intervals import Z95, mean_interval, paired_difference, paired_proportions, student

TABLES = [
    (12, 2, 50),
    (5, 5, 100),
    (0, 7, 40),
    (9, 2, 30),
    (1, 0, 44),
    (53, 16, 100),
    (40, 20, 160),
    (3, 90, 1319),
]
"""(only the first right, only the second, problems)"""


def bisect(falls: object, low: float, high: float) -> float:
    """Root of a falling function."""
    assert callable(falls)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if falls(middle) > 0 else (low, middle)
    return low


def score_statistic(difference: float, better: int, worse: int, n: int) -> float:
    """Tango's statistic with the constrained maximum likelihood found by search, not by its formula."""

    def likelihood(q: float) -> float:
        cells = [(better, q + difference), (worse, q), (n - better - worse, 1 - 2 * q - difference)]
        return sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    for _ in range(200):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (a, high) if likelihood(a) < likelihood(b) else (low, b)
    q = (low + high) / 2
    spread = math.sqrt(n * (2 * q + difference - difference**2))
    return (better - worse - n * difference) / spread


@pytest.mark.parametrize(("better", "worse", "n"), TABLES)
def test_the_paired_interval_inverts_the_score_test(better: int, worse: int, n: int) -> None:
    estimate = (better - worse) / n
    low, high = paired_proportions(better, worse, n)
    assert low < estimate < high
    want_low = bisect(lambda d: score_statistic(d, better, worse, n) - Z95, -1 + 1e-9, estimate)
    want_high = bisect(lambda d: score_statistic(d, better, worse, n) + Z95, estimate, 1 - 1e-9)
    assert (low, high) == pytest.approx((want_low, want_high), abs=1e-6)


def test_the_paired_interval_is_the_published_one() -> None:
    """Airway hyper-responsiveness, 21 children (Bentur et al. 2009), Tango's interval as given by Fagerland,
    Lydersen and Laake (Stat. Med. 33, 2014): -0.517 to -0.026."""
    assert paired_proportions(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("worse", range(0, 12))
@pytest.mark.parametrize("better", range(0, 25, 3))
def test_the_paired_interval_excludes_zero_exactly_where_mcnemar_rejects(better: int, worse: int) -> None:
    low, high = paired_proportions(better, worse, 60)
    rejects = (better - worse) ** 2 > Z95**2 * (better + worse)
    assert (low > 0 or high < 0) == rejects


@pytest.mark.parametrize(("better", "worse", "n"), TABLES)
def test_the_paired_interval_turns_round_with_its_sides(better: int, worse: int, n: int) -> None:
    low, high = paired_proportions(better, worse, n)
    assert paired_proportions(worse, better, n) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize("n", [1, 30, 1319])
def test_two_that_never_differ_are_not_taken_for_equal(n: int) -> None:
    bound = Z95**2 / (n + Z95**2)
    assert paired_proportions(0, 0, n) == pytest.approx((-bound, bound), abs=1e-9)


def test_ends_of_the_scale() -> None:
    low, high = paired_proportions(30, 0, 30)
    assert high == 1
    assert 0.7 < low < 0.9
    assert paired_proportions(0, 30, 30) == pytest.approx((-1, -low))
    assert paired_proportions(0, 0, 0) == (-1, 1)


@pytest.mark.parametrize(
    ("only_first", "only_second", "n"), [(0.15, 0.05, 60), (0.02, 0.02, 200), (0.4, 0.1, 30)]
)
def test_the_paired_interval_covers_what_it_says(only_first: float, only_second: float, n: int) -> None:
    rng = random.Random(7)
    hits, trials = 0, 1200
    for _ in range(trials):
        draws = [rng.random() for _ in range(n)]
        better = sum(u < only_first for u in draws)
        worse = sum(only_first <= u < only_first + only_second for u in draws)
        low, high = paired_proportions(better, worse, n)
        hits += low <= only_first - only_second <= high
    assert 0.93 <= hits / trials <= 0.98


def test_shares_of_several_samples_get_students_interval_over_problems() -> None:
    first, second = [0.5, 1.0, 0.25, 0.75, 0.0], [0.25, 1.0, 0.5, 0.0, 0.0]
    differences = [a - b for a, b in zip(first, second, strict=True)]
    half = 2.776 * statistics.stdev(differences) / math.sqrt(5)
    mean = statistics.fmean(differences)
    assert paired_difference(first, second) == pytest.approx((mean - half, mean + half), abs=1e-9)


def test_the_interval_of_shares_covers_what_it_says() -> None:
    """40 problems of very different difficulty, 4 samples of each; the first is better by 0.1 on all."""
    rng = random.Random(11)
    hits, trials = 0, 800
    for _ in range(trials):
        first, second = [], []
        for _ in range(40):
            chance = rng.uniform(0, 0.9)
            first.append(sum(rng.random() < chance + 0.1 for _ in range(4)) / 4)
            second.append(sum(rng.random() < chance for _ in range(4)) / 4)
        low, high = paired_difference(first, second)
        hits += low <= 0.1 <= high
    assert 0.93 <= hits / trials <= 0.97


def test_pairing_is_narrower_than_two_intervals_where_problems_are_hard_for_both() -> None:
    rng = random.Random(3)
    hard = [rng.random() < 0.5 for _ in range(200)]
    first = [float(h) for h in hard]
    second = [float(h if i >= 10 else not h) for i, h in enumerate(hard)]
    low, high = paired_difference(first, second)
    unpaired = 2 * Z95 * math.sqrt(2 * 0.25 / 200)
    assert high - low < 0.6 * unpaired


@pytest.mark.parametrize(("shares", "other"), [([0.5] * 20, [0.5] * 20), ([0.75] * 20, [0.5] * 20)])
def test_shares_that_all_differ_alike_have_an_interval_too(shares: list[float], other: list[float]) -> None:
    low, high = paired_difference(shares, other)
    assert low < shares[0] - other[0] < high
    assert high - low > 0.1


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (10, 2.228), (30, 2.042), (31, 2.0395), (60, 2.0003), (120, 1.9799), (1000, 1.9623)],
)
def test_students_quantiles(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, abs=5e-4)


def test_the_interval_over_seeds_is_students() -> None:
    mean, half = mean_interval([0.80, 0.82, 0.84])
    assert mean == pytest.approx(0.82)
    # s = 0.02, t(2) = 4.303: by hand
    assert half == pytest.approx(4.303 * 0.02 / math.sqrt(3), rel=1e-6)
    assert mean_interval([0.5]) == (0.5, None)
