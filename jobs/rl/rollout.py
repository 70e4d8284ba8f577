"""A rollout: one sample of a problem with what it is worth."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.generate.protocol import Sample
from jobs.grade.protocol import Verdict


@dataclass(slots=True)
class Rollout:
    """`place` counts the rollouts of one set; those of a group stand side by side."""

    place: int
    group: int
    prompt: list[int]
    """Token ids."""
    sample: Sample
    draw: int = 0
    """Place of its problem in the stream of problems."""
    rewards: dict[str, float | None] = field(default_factory=dict)
    """Each by its name, before its weight; None: it could not be worked out."""
    reward: float | None = None
    """Weighted sum, penalties included; None: the grader failed, and nobody knows."""
    verdict: Verdict | None = None
    """The grader's; None where it was not asked."""
    drawn: bool = True
    """A draw of the policy. False: searched; no importance ratio is taken of it."""
    counts: bool = True
    """False: it enters neither the loss nor the statistics of its group (a duplicate, a failed grader)."""
