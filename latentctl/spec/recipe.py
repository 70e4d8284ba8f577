"""The top of a recipe: what is said once, beside what every stage may inherit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from latentctl.spec.base import SCHEMA_VERSION, Spec
from latentctl.spec.experiment import RUN_NAME, SweepSpec, WandbSpec

Seed = Annotated[int, Field(ge=0)]


def _distinct(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("a seed is listed twice")
    return values


class RecipeTop(Spec):
    """The keys of a recipe that belong to the whole experiment. All others are defaults for its stages."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this format."""
    name: str | None = Field(default=None, pattern=RUN_NAME)
    """Names the run; the file's name if unsaid."""
    seed: int | None = Field(default=None, ge=0)
    """One seed; 0 if unsaid."""
    seeds: (
        Annotated[int, Field(ge=1, le=1000)]
        | Annotated[list[Seed], Field(min_length=1), AfterValidator(_distinct)]
        | None
    ) = None
    """Run it with so many seeds (from 0), or with these; every table then shows mean and interval."""
    sweep: SweepSpec | None = None
    """Run every combination of some values."""
    jobs: Literal["auto", "per_stage"] = "auto"
    """`auto`: consecutive stages with the same resources share one job; `per_stage`: one job each."""
    plugins: list[str] = Field(default_factory=list)
    """Python files with own datasets, graders, methods; imported when the recipe is read."""
    wandb: WandbSpec | None = None
    """Weights & Biases; off if unsaid."""

    @model_validator(mode="after")
    def _one_of(self) -> RecipeTop:
        if self.seed is not None and self.seeds is not None:
            raise ValueError("give seed or seeds, not both")
        return self


STAGES = "stages"
EXPERIMENT_KEYS = frozenset(RecipeTop.model_fields) | {STAGES}
