"""What a rollout is rewarded for: named rewards and their weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from latentctl.spec.base import Spec

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""Of a reward of one's own."""
Name = Annotated[str, Field(pattern=NAME)]


class RewardsSpec(Spec):
    """The weight of each reward; 0 leaves it out. Each is logged by itself, before its weight.

    A weight below 0 is allowed where more is not simply better: `response_think`, and rewards of one's own.
    """

    correctness: float = Field(default=1.0, ge=0)
    """The grader says that the answer is right: 1, else 0."""
    answer_format: float = Field(default=0.0, ge=0)
    """1 if the answer has the form of one, right or wrong: an expression over the given numbers (countdown),
    an option's letter (choice), mathematics (math, unless the gold is digits), digits alone (others)."""
    loose_format: float = Field(default=0.0, ge=0)
    """The parts of the prompt's form are there. `plain`: end marker and \\boxed, 1 or 0; `xml`: a quarter for
    each tag that stands once, that of </answer> shrinking to 0 with 100 characters behind it."""
    strict_format: float = Field(default=0.0, ge=0)
    """1 if the text is exactly of the prompt's form. `plain`: the reasoning, the end marker, one \\boxed
    behind it; `xml`: a think block and an answer block at its beginning; nothing of them twice."""
    latent_len: float = Field(default=0.0, ge=0)
    """Few latent steps where the answer is right (0 to 1), many where it is wrong (-1 to 0), measured by
    `latent.stop.max_len`."""
    answer_len: float = Field(default=0.0, ge=0)
    """Words after the reasoning, 0 to 1: a reasoning model's from 30 to 1000, others' below 30."""
    answer_no_think: float = Field(default=0.0, ge=0)
    """1 less a fifth for each "hmm", "wait,", "okay," and "i need" in the answer, not below 0."""
    response_think: float = 0.0
    """Latent steps, or words, of the reasoning: 0 to 1 at 500."""
    reasoning: Literal["auto"] | bool = "auto"
    """Of `answer_len`: whether this is a reasoning model. `auto`: its name says qwen3 or deepseek, and not
    base."""
    own: dict[Name, float] = Field(default_factory=dict)
    """Rewards of plugins or installed packages (entry points `latentctl.rewards`): name -> weight."""

    def weights(self) -> dict[str, float]:
        """Name -> weight of every reward that counts, own ones last."""
        every = {name: getattr(self, name) for name in BUILT_IN} | self.own
        return {name: weight for name, weight in every.items() if weight != 0}


BUILT_IN = tuple(name for name in RewardsSpec.model_fields if name not in ("reasoning", "own"))
"""Names of the rewards that need no plugin."""
