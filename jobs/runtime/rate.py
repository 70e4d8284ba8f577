"""How fast a stage goes, and how long it still takes."""

from __future__ import annotations

import itertools
from collections import deque


class Rate:
    """Fed with (monotonic time in s, step).

    The rate is the median speed of the recent steps: one slow step (a validation, a checkpoint) does not move
    it. The time left counts those pauses in: the mean over the whole window, without the first step
    (start-up).
    """

    def __init__(self, window: int = 256, recent: int = 32) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=window + 1)
        self._recent = recent
        self._skipped_first = False

    def add(self, at: float, step: float) -> None:
        if self._seen and step < self._seen[-1][1]:
            self._seen.clear()  # a rewind
            self._skipped_first = False
        if self._seen and step == self._seen[-1][1]:
            return
        if len(self._seen) == 1 and not self._skipped_first:
            self._seen.clear()
            self._skipped_first = True
        self._seen.append((at, step))

    def per_second(self) -> float | None:
        """Units per second, None while there is nothing to tell from."""
        seen = list(self._seen)[-self._recent - 1 :]
        costs = [((b[0] - a[0]) / (b[1] - a[1]), b[1] - a[1]) for a, b in itertools.pairwise(seen)]
        if not costs:
            return None
        costs.sort()
        half, passed = sum(w for _, w in costs) / 2, 0.0
        for cost, weight in costs:
            passed += weight
            if passed >= half:
                return 1 / cost if cost > 0 else None
        return None

    def eta(self, left: float) -> float | None:
        """Seconds for `left` more units, None while there is nothing to tell from."""
        if len(self._seen) < 2 or left < 0:
            return None
        (t0, s0), (t1, s1) = self._seen[0], self._seen[-1]
        return left * (t1 - t0) / (s1 - s0)
