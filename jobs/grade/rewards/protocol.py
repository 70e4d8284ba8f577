"""What a reward is asked about, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from jobs.grade.protocol import Verdict


class Attempt(NamedTuple):
    """One finished sample of one problem, as a reader sees it."""

    text: str
    """What the model wrote. Markers around latent spans stand in it where they are those of the prompt's
    form."""
    gold: str
    meta: dict[str, Any]
    markers: tuple[str, str]
    """Around the reasoning, as the prompt's form has them; empty texts where it has none."""
    prompt: str = ""
    """The whole prompt: where it ends with the start marker, the text begins inside the reasoning."""
    latents: int = 0
    """Latent steps taken, all spans together."""
    truncated: bool = False
    """It reached the longest completion that is allowed."""
    tokens: int | None = None
    """Token ids written, markers around latent spans aside; None: not counted."""


class Rewarded(NamedTuple):
    """What an attempt is worth."""

    values: dict[str, float | None]
    """Each reward with a weight, by its name, before its weight; None: it could not be worked out."""
    total: float | None
    """The weighted sum; None where the grader failed or any of the values is None."""
    verdict: Verdict
    """The grader's."""
    failures: Mapping[str, str]
    """Why there is no value: name of the reward, or `grader` -> what went wrong."""


class Reward(Protocol):
    """A reward of one's own. It may also have `warm()`, called once in each process of the pool before time
    and memory are bounded, and `memory_mb`, the bound (4096 where it is unsaid)."""

    name: str
    pooled: bool
    """Run in the pool of processes, which bounds its time and memory. Where it is unsaid, it is pooled;
    False is for what is pure and quick."""

    def reward(self, attempt: Attempt, verdict: Verdict) -> float:
        """A finite number, of any range. What it raises is told, and the attempt has no reward then."""
        ...
