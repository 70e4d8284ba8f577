"""When noise falls on latent steps of training rollouts: `latent.noise` says what falls, this says when."""

from __future__ import annotations

from pydantic import Field

from latentctl.spec.base import Spec


class TargetRatio(Spec):
    """A threshold that is calibrated before the first rollout."""

    target_ratio: float = Field(gt=0, lt=1)
    """The share of latent steps whose entropy is to lie above it."""
    problems: int = Field(default=64, ge=1)
    """Measured on the first so many training problems, one undisturbed sample each."""


class DisturbanceSpec(Spec):
    """A latent step is disturbed where its entropy exceeds the threshold and the budget allows it. Nothing
    is disturbed in validation and evaluation."""

    entropy_threshold: float | TargetRatio | None = None
    """In nats, of the whole distribution before filters at the temperature that `latent.stop.entropy` looks
    at (else that of the input); a map `{target_ratio: 0.05}` is calibrated first. Unsaid: every step."""
    max_ratio: float = Field(default=1.0, gt=0, le=1)
    """Running budget: a step is disturbed only while fewer than this share of the sample's latent steps so
    far, this one included, were."""
    floor: float = Field(default=0.0, ge=0)
    """Standard deviation of normal noise on what every other latent step is fed, times the RMS of it; 0 is
    off. With it no latent step is deterministic, and the policy gradient leaves none out."""
