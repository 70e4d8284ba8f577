"""Entropy thresholds and the share of steps above them, with intervals over problems. numpy alone.

Steps of one problem are alike, so problems are the unit of every interval. A share's interval is the
percentile bootstrap over problems of a ratio of sums (Cochran 1977, chapter 6: a cluster sample's
proportion). The threshold's is Woodruff's (1952, JASA 47:635): the interval of the share above the
threshold, carried over to the quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jobs.grade.metrics import wilson
from latentctl.record.calibration import Interval, Share, Target

Entropies = Sequence[np.ndarray]
"""For each problem the entropies of all its steps, in nats; at least one each."""

DRAWS = 2000
_CHUNK = 100


def shares(entropies: Entropies, thresholds: Sequence[float]) -> list[Share]:
    """The share of steps with an entropy strictly above each threshold; falls as the threshold rises."""
    above = np.array([[np.count_nonzero(h > t) for t in thresholds] for h in entropies], dtype=float)
    steps = np.array([len(h) for h in entropies], dtype=float)
    means = above.sum(0) / steps.sum()
    found = zip(thresholds, means, _intervals(above, steps), strict=True)
    return [Share(float(t), float(mean), ci) for t, mean, ci in found]


def target(entropies: Entropies, ratio: float) -> Target:
    """The least entropy above which at most `ratio` of all steps lies: an exact quantile."""
    pooled = np.sort(np.concatenate(entropies))
    threshold = _quantile(pooled, ratio)
    ((low, high),) = (s.ci for s in shares(entropies, [threshold]))
    # Where the share above may be as large as `high`, the threshold for `ratio` may lie as low as the
    # quantile of the share `high`, and the other way round.
    return Target(ratio, threshold, (_quantile(pooled, high), _quantile(pooled, low)))


def _quantile(pooled: np.ndarray, above: float) -> float:
    """The least of the sorted values with at most the share `above` of them higher."""
    allowed = int(np.floor(above * len(pooled) + 1e-9))  # 0.05 * 100 is a little below 5
    return float(pooled[max(0, len(pooled) - 1 - allowed)])


def _intervals(above: np.ndarray, steps: np.ndarray, seed: int = 0) -> list[Interval]:
    """95 % intervals of the T shares sum(`above` (P, T)) / sum(`steps` (P,)) over P problems.

    Where all problems have the same share the bootstrap has no width: Wilson's over problems then.
    """
    problems = len(steps)
    rng = np.random.default_rng(seed)
    drawn = []
    for begin in range(0, DRAWS, _CHUNK):
        picks = rng.integers(problems, size=(min(_CHUNK, DRAWS - begin), problems))
        times = np.stack([np.bincount(row, minlength=problems) for row in picks]).astype(float)
        drawn.append(times @ above / (times @ steps)[:, None])
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975], axis=0)
    own = above / steps[:, None]
    alike = own.max(0) == own.min(0)
    return [
        wilson(float(own[0, t]) * problems, problems) if alike[t] else (float(low[t]), float(high[t]))
        for t in range(above.shape[1])
    ]
