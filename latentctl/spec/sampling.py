"""How text is drawn from a model."""

from __future__ import annotations

from pydantic import Field, model_validator

from latentctl.spec.base import Spec


class SamplingSpec(Spec):
    """Greedy by default. Filters apply in the order temperature, top-k, top-p, min-p."""

    temperature: float = Field(default=0.0, ge=0, le=10)
    """0 is greedy."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k most likely tokens; 0 is off."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the smallest set whose mass reaches p (at least one token); 1 is off."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Keep tokens with at least this share of the largest probability; 0 is off."""
    samples: int = Field(default=1, ge=1, le=4096)
    """Answers per problem (k)."""
    max_new_tokens: int = Field(default=256, ge=1, le=1_048_576)
    """Longest answer in tokens, reasoning included."""
    max_think_tokens: int | None = Field(default=None, ge=0)
    """After so many tokens of reasoning the end marker is forced."""
    stop: list[str] = Field(default_factory=list)
    """Texts that end an answer, besides the end-of-sequence token."""
    seed: int = Field(default=0, ge=0)
    """Draws depend on (seed, problem, sample, position) alone: the same in any batch, after any resume."""

    @model_validator(mode="after")
    def _agrees(self) -> SamplingSpec:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("several samples of a greedy answer are all the same: set a temperature")
        if self.temperature == 0 and (self.top_k or self.top_p < 1 or self.min_p):
            raise ValueError(
                "top_k, top_p and min_p do nothing at temperature 0: set a temperature or drop them"
            )
        if self.max_think_tokens is not None and self.max_think_tokens >= self.max_new_tokens:
            raise ValueError(
                f"max_think_tokens ({self.max_think_tokens}) must leave room for an answer "
                f"within max_new_tokens ({self.max_new_tokens})"
            )
        return self
