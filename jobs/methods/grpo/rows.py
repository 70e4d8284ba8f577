"""What one rollout brings to the loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from jobs.latent.actions import Actions
from jobs.rl.rollout import Rollout
from jobs.rl.sequence import Sequence, sequence


class Scored(NamedTuple):
    """What the policy said of a rollout before the first update on its set."""

    text: Tensor
    """(T,) log-probs of its drawn tokens."""
    entropy: Tensor
    """(T,) in nats, of the distributions they came from."""
    steps: dict[int, Tensor]
    """For each kind of noise the log-densities (S,) of its steps."""
    reference: float
    """log π - log π_reference of the whole rollout; 0 without a reference."""


class GrpoRow(NamedTuple):
    """A rollout that is trained on."""

    sequence: Sequence
    actions: Actions | None
    drawn: bool
    """A draw of the policy; else its ratio is 1."""
    advantage: float = 0.0
    scale: float = 0.0
    """See `jobs.rl.aggregate`."""
    weight: float = 0.0
    legacy: float = 0.0
    """What the mean over its disturbed steps is multiplied by, in a legacy latent loss."""
    scored: Scored | None = None
    """None: the log-probs before the update are those of the update's own forward."""
    high: float = float("-inf")
    """Tokens of at least this entropy enter the policy loss."""

    @property
    def length(self) -> int:
        return self.sequence.length


def row_of(rollout: Rollout) -> GrpoRow:
    """Of a rollout whose worth is not known yet."""
    return GrpoRow(sequence(rollout.prompt, rollout.sample), rollout.sample.actions, rollout.drawn)
