"""The settings block of each method, and the one door through which methods come in.

A method is a light settings model here (read by the control plane) that names its heavy implementation by
import path (loaded by the worker alone). Own methods use the same door: an entry point in the group
`latentctl.methods`, or a Python file that the recipe names under `plugins:` and that calls `register` when it
is imported.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any, ClassVar, Literal

from pydantic import Field, create_model

from latentctl.errors import UserError
from latentctl.spec.base import Spec
from latentctl.spec.stage import StageBase


class MethodSettings(Spec):
    """Base of a method's settings. Subclasses set the class variables."""

    method: ClassVar[str]
    """The name in recipes, and of the settings block."""
    implementation: ClassVar[str]
    """`package.module:Class` of the worker's side; see `jobs/methods/README.md`."""
    output: ClassVar[Literal["checkpoint", "scores", "dataset"]]
    role: ClassVar[Literal["train", "eval"]] = "train"
    """Which of the cluster profile's interpreters runs it."""
    trains: ClassVar[bool] = False
    """Whether the blocks `train` and `validation` mean something to it."""
    generates: ClassVar[bool] = False
    """Whether the block `sampling` means something to it."""
    metrics: ClassVar[tuple[str, ...]] = ()
    """Validation metrics that `train.keep.best` and `train.early_stop` may name."""


class SftSettings(MethodSettings):
    """Supervised fine-tuning; the loss falls on the response only."""

    method = "sft"
    implementation = "jobs.methods.sft:Sft"
    output = "checkpoint"
    trains = True
    metrics = ("loss", "accuracy")

    target: Literal["cot", "answer"] = "cot"
    """`cot`: steps and answer in the prompt's form; `answer`: the answer alone."""
    steps: Literal["auto", "formula", "sentence"] = "auto"
    """For GSM8K: steps as `<<48/2=24>>` formulas or as sentences; `auto` takes the dataset's own."""
    packing: bool = False
    """Put several rows into one sequence; rows never see one another."""


class EvalSettings(MethodSettings):
    """Generate, grade, count."""

    method = "eval"
    implementation = "jobs.methods.evaluate:Evaluate"
    output = "scores"
    role = "eval"
    generates = True

    engine: Literal["auto", "transformers"] = "auto"
    grader: str = "auto"
    """`auto` takes the dataset's; or math, numeric, countdown, choice, exact, prosqa, or one of a plugin."""
    max_batch: int = Field(default=64, ge=1)
    """Most rows in one batch."""
    max_batch_tokens: int = Field(default=32768, ge=16)
    """Bound of (prompt + new tokens) × rows in one batch: bounds the memory of the KV cache."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    grade_timeout: float = Field(default=10.0, gt=0)
    """Hard limit per answer, in seconds."""


METHODS: dict[str, type[MethodSettings]] = {}
_STAGES: dict[str, type[StageBase]] = {}


def register(settings: type[MethodSettings]) -> type[MethodSettings]:
    """Make a method known under `settings.method`; usable as a decorator."""
    METHODS[settings.method] = settings
    _STAGES.pop(settings.method, None)
    return settings


register(SftSettings)
register(EvalSettings)


def load_entry_points() -> None:
    """Register the methods of installed packages (entry points `latentctl.methods`). Raises UserError."""
    for point in metadata.entry_points(group="latentctl.methods"):
        if point.name in METHODS:
            continue
        try:
            register(point.load())
        except Exception as error:
            words = (
                f"the method {point.name!r} of an installed package fails: {type(error).__name__}: {error}"
            )
            raise UserError(words, hint=f"it is {point.value}") from error


def stage_model(method: str) -> type[StageBase]:
    """The stage model of a method: the common keys plus the settings block named like the method."""
    if method not in _STAGES:
        settings = METHODS[method]
        fields: dict[str, Any] = {
            "method": (Literal[method], method),
            method: (settings, Field(default_factory=settings, description=(settings.__doc__ or "").strip())),
        }
        _STAGES[method] = create_model(
            f"{method.title().replace('-', '')}Stage", __base__=StageBase, **fields
        )
    return _STAGES[method]
