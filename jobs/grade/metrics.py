"""What is counted of graded samples: accuracy with an interval, avg@k, pass@k, maj@k."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal."""


def wilson(correct: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927). (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p = correct / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Rounding must not put the interval beside a proportion of exactly 0 or 1.
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    return low, 1.0 if correct == n else min(1.0, middle + half)


def bootstrap(values: Sequence[float], *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean when problems are drawn anew (samples of one problem are not
    independent).

    Where all values agree the bootstrap has no width: the caller should widen it (see `accuracy_interval`).
    """
    rng = random.Random(seed)
    n = len(values)
    if n == 0:
        return 0.0, 1.0
    means = sorted(sum(rng.choices(values, k=n)) / n for _ in range(draws))
    return means[int(0.025 * draws)], means[min(draws - 1, int(0.975 * draws))]


def accuracy_interval(per_problem: Sequence[float], k: int) -> tuple[float, float]:
    """One sample per problem: Wilson. Several: bootstrap over problems (clusters), never narrower than
    no data allows: where every problem agrees, Wilson over problems."""
    if k == 1 or len(set(per_problem)) <= 1:
        return wilson(sum(per_problem), len(per_problem))
    return bootstrap(per_problem)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k of the n samples, drawn without replacement, hold a correct one: 1 - C(n-c, k) / C(n, k).

    Unbiased (Chen et al. 2021). Raises ValueError for k > n.
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@{k} of {n} samples with {correct} correct")
    if n - correct < k:
        return 1.0
    return 1.0 - math.prod((n - correct - i) / (n - i) for i in range(k))


def powers(k: int) -> list[int]:
    """The k for which pass@k is shown: 1, 2, 4, ... and k itself."""
    return sorted({1 << i for i in range(k.bit_length()) if 1 << i <= k} | {k})


def majority(answers: Sequence[tuple[str | None, bool]]) -> float:
    """maj@k of one problem: (answer read, correct) of each sample. Ties share: the chance that a random
    pick among the most frequent answers is correct. Samples without an answer do not vote; none at all
    is 0.

    Answers that were both judged correct are one answer, however they are written.
    """
    votes = Counter(
        "\0correct" if right else answer for answer, right in answers if right or answer is not None
    )
    if not votes:
        return 0.0
    top = max(votes.values())
    winners = [a for a, count in votes.items() if count == top]
    return winners.count("\0correct") / len(winners)
