"""A reward for tests: the share of the words that are "wa". A random model can learn it by trying."""

from __future__ import annotations

from typing import Any

from jobs.grade.rewards import register


class Favourite:
    """From 0 to 1."""

    name = "favourite"
    pooled = False

    def reward(self, attempt: Any, verdict: Any) -> float:
        words = attempt.text.split()
        return words.count("wa") / max(1, len(words))


register(Favourite())
