"""What a rollout is rewarded for: named rewards and their weights."""

from __future__ import annotations

from pydantic import Field

from latentctl.spec.base import Spec


class RewardsSpec(Spec):
    """The weight of each reward; 0 leaves it out. Each is logged by itself, before its weight."""

    correctness: float = 1.0
    """The grader says that the answer is right."""
    answer_format: float = 0.0
    """The answer has the form of one, right or wrong: the given numbers (countdown), digits alone (others)."""
    loose_format: float = 0.0
    """The parts of the prompt's form are there."""
    strict_format: float = 0.0
    """The whole text is exactly of the prompt's form."""
    latent_len: float = 0.0
    """Few latent steps where the answer is right, many where it is wrong."""
    answer_len: float = 0.0
    """Words after the reasoning: neither too few nor too many."""
    answer_no_think: float = 0.0
    """The answer does not go on reasoning."""
    response_think: float = 0.0
    """Latent steps, or words, of the reasoning, up to 500."""
    own: dict[str, float] = Field(default_factory=dict)
    """Rewards of plugins or installed packages (entry points `latentctl.rewards`): name -> weight."""
