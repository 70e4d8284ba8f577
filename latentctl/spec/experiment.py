"""The whole resolved experiment: what `spec.json` holds and the worker reads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from latentctl.spec.base import SCHEMA_VERSION, Spec
from latentctl.spec.methods import METHODS, stage_model
from latentctl.spec.stage import StageBase

RUN_NAME = r"^[a-z0-9][a-z0-9._-]{0,59}$"


class WandbSpec(Spec):
    """Weights & Biases. Never able to stop or slow training."""

    project: str = "latentctl"
    entity: str | None = None
    mode: Literal["online", "offline"] = "offline"
    tags: list[str] = Field(default_factory=list)


class RangeSpec(Spec):
    """Values between two numbers."""

    low: float
    high: float
    log: bool = False
    """Even on a logarithmic scale."""
    whole: bool = False
    """Whole numbers alone."""

    @model_validator(mode="after")
    def _ordered(self) -> RangeSpec:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) is not below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, not {self.low:g}")
        return self


class RandomSpec(Spec):
    """Points drawn at random."""

    count: int = Field(ge=1, le=10_000)
    seed: int = Field(default=0, ge=0)
    """The same seed draws the same points."""
    space: dict[str, RangeSpec | Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)
    """Dotted key -> a range or values to choose from: `{train.lr: {low: 1e-6, high: 1e-4, log: true}}`."""


class SweepSpec(Spec):
    """A set of runs: every combination of what `grid`, `list` and `random` name."""

    grid: dict[str, list[Any]] = Field(default_factory=dict)
    """Dotted key -> values: `{train.lr: [1e-4, 1e-5]}`."""
    list_: list[Annotated[dict[str, Any], Field(min_length=1)]] | None = Field(
        default=None, alias="list", min_length=1
    )
    """Points one by one: `[{train.lr: 1e-4, train.batch: 32}, {train.lr: 2e-4, train.batch: 64}]`."""
    random: RandomSpec | None = None
    pack: int = Field(default=1, ge=1, le=1000)
    """So many points of an evaluation sweep share one job, and one copy of the model that stays loaded."""


def _stage(value: Any) -> Any:
    if isinstance(value, dict) and value.get("method") in METHODS:
        return stage_model(value["method"]).model_validate(value)
    return value


class Experiment(Spec):
    """A validated, fully resolved experiment, with every default filled in: one point, one seed."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=RUN_NAME)
    seed: int = Field(default=0, ge=0)
    """One of the recipe's `seeds`."""
    jobs: Literal["auto", "per_stage"] = "auto"
    """`auto`: consecutive stages with the same resources and interpreter role share one job and one
    process."""
    plugins: list[str] = Field(default_factory=list)
    """Python files with own datasets, graders, methods; each goes into the snapshot."""
    wandb: WandbSpec | None = None
    stages: list[SerializeAsAny[Annotated[StageBase, BeforeValidator(_stage)]]] = Field(min_length=1)

    def stage(self, name: str) -> StageBase:
        return next(s for s in self.stages if s.name == name)

    def dump(self) -> dict[str, Any]:
        """JSON-ready, with `from` under its own name; `Experiment.model_validate` reads it back."""
        return self.model_dump(mode="json", by_alias=True)
