"""The divergence model (document 000): does one continuation of a chain come to the same answer as another?

Three methods: `divergence-data` searches trees and labels their branches, `divergence` trains the model on
them, `divergence-eval` measures it. High scores mean the same answer, everywhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from latentctl.spec.methods import GradedSettings, MethodSettings, register
from latentctl.spec.tree import TreeSpec


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Sources = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(_several, json_schema_input_type=list[str] | str),
    Field(min_length=1),
]
"""Stages of the method divergence-data, `run:ID/STAGE`, or files (.jsonl) that one wrote."""


@register
class DivergenceDataSettings(GradedSettings):
    """Search each problem's answers as a tree, `sampling.samples` of them; each branch and its parent become
    rows, labelled by whether their answers are the same."""

    method = "divergence-data"
    implementation = "jobs.methods.divergence.collect:Collect"
    output = "dataset"
    role = "eval"
    generates = True

    tree: TreeSpec = Field(default_factory=TreeSpec)
    """How rows branch. `look_ahead` takes out branches that stay like their parent."""
    windows: list[Annotated[int, Field(ge=2)]] = Field(default_factory=lambda: [20, 30, 50], min_length=1)
    """So many tokens of both continuations, from the branching token on: a row for each."""
    before: int = Field(default=100, ge=1)
    """At most so many tokens of the answer before the branching token."""
    balance: bool = True
    """Of each problem as many rows that differ as rows that agree, and at most as many halfway ones."""

    @field_validator("windows")
    @classmethod
    def _different(cls, values: list[int]) -> list[int]:
        if len(set(values)) < len(values):
            raise ValueError("the same number stands there twice")
        return values


@register
class DivergenceSettings(MethodSettings):
    """Train an encoder to give the probability that two continuations come to the same answer."""

    method = "divergence"
    implementation = "jobs.methods.divergence.train:Divergence"
    output = "judge"
    trains = True
    holds_out = True
    reads_dataset = False
    prompts = False
    sources = ((("data",), "dataset"),)
    metrics = ("loss", "near")

    data: Sources
    """What to train on."""
    mix: Literal["equal", "all"] = "equal"
    """Of several sources equally many rows each, or all."""
    held_out: float = Field(default=0.05, gt=0, lt=1)
    """Share of the problems (never of a problem's rows) that is kept for the evaluation."""
    loss: Literal["mse", "bce"] = "mse"
    """Against the label: squared error of the probability, or binary cross-entropy."""
    pooling: Literal["last", "mean", "first"] = "last"
    """Which hidden state of the encoder stands for the row: `last` for models that read from left to right,
    `first` for those with a token for it (BERT)."""
    norm: Literal["batch", "layer", "none"] = "batch"
    """Of the pooled state. `batch`: in training over the rows of a process's micro-batch."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Before the linear layer."""
    separator: str = Field(default=" ## ", min_length=1)
    """Stands between the text before and the two continuations."""


@register
class DivergenceEvalSettings(MethodSettings):
    """Measure a divergence model: AUROC, average precision, calibration, and what each threshold does."""

    method = "divergence-eval"
    implementation = "jobs.methods.divergence.measure:Measure"
    output = "scores"
    role = "eval"
    reads_dataset = False
    prompts = False
    starts_from = "judge"
    sources = ((("data",), "dataset"),)

    data: Sources
    """What to measure on."""
    part: Literal["held_out", "all"] = "held_out"
    """`held_out`: problems that its training left out; `all`: of data that it was not trained on."""
    batch: int = Field(default=64, ge=1)
    """Rows that are scored together."""
