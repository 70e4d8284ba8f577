"""The settings block of each method, and the one door through which methods come in.

A method is a light settings model here (read by the control plane) that names its heavy implementation by
import path (loaded by the worker alone). Own methods use the same door: an entry point in the group
`latentctl.methods`, or a Python file that the recipe names under `plugins:` and that calls `register` when it
is imported.
"""

from __future__ import annotations

from importlib import metadata
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, create_model, field_validator, model_validator

from latentctl.errors import UserError
from latentctl.spec.base import Spec
from latentctl.spec.curriculum import EpochList, StepList
from latentctl.spec.engine import EngineSpec
from latentctl.spec.stage import StageBase
from latentctl.spec.tree import TreeSpec


class MethodSettings(Spec):
    """Base of a method's settings. Subclasses set the class variables."""

    method: ClassVar[str]
    """The name in recipes, and of the settings block."""
    implementation: ClassVar[str]
    """`package.module:Class` of the worker's side; see `jobs/methods/README.md`."""
    output: ClassVar[Literal["checkpoint", "judge", "scores", "dataset"]]
    """`judge`: a divergence model, which is no language model."""
    starts_from: ClassVar[Literal["checkpoint", "judge"]] = "checkpoint"
    """The output of the stage that `from` may name."""
    sources: ClassVar[tuple[tuple[tuple[str, ...], Literal["dataset", "judge"]], ...]] = ()
    """Keys of its settings, as paths, that name a stage's output (one or a list), and which output that
    must be."""
    role: ClassVar[Literal["train", "eval"]] = "train"
    """Which of the cluster profile's interpreters runs it."""
    trains: ClassVar[bool] = False
    """Whether the blocks `train` and `validation` mean something to it."""
    generates: ClassVar[bool] = False
    """Whether the block `sampling` means something to it."""
    latent: ClassVar[bool] = False
    """Whether the block `latent` means something to it."""
    disturbs: ClassVar[bool] = False
    """Whether the block `disturbance` means something to it."""
    reads_dataset: ClassVar[bool] = True
    """Whether the block `dataset` means something to it, and has to be there."""
    prompts: ClassVar[bool] = True
    """Whether the block `prompt` means something to it."""
    holds_out: ClassVar[bool] = False
    """It validates on rows of its own that it holds out: the block `validation` means nothing to it."""
    metrics: ClassVar[tuple[str, ...]] = ()
    """Validation metrics that `train.keep.best` and `train.early_stop` may name."""

    @property
    def generators(self) -> int:
        """The last so many processes of its job generate for the others. The method has `generate` then,
        which they call instead of `run`."""
        return 0


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


class DifficultySpec(Spec):
    """From a problem's difficulty in [0, 1] to a count: min + round(difficulty · (max − min))."""

    min: int = Field(default=1, ge=0)
    max: int = Field(default=10, ge=1)
    field: str = "difficulty"
    """Key of the row's meta that holds it; `steps`: the number of reference steps, rank-transformed."""
    normal: bool = False
    """Rank-transform over the dataset to a normal distribution of mean 0.5 and deviation 0.25, cut to
    [0, 1]; ties share a value. Always done for `field: steps`."""
    divide_by: float = Field(default=1.0, gt=0)
    """Divides the difficulty before it is used."""

    @model_validator(mode="after")
    def _ordered(self) -> DifficultySpec:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


TEXT_ONLY = ("no_thoughts", "cot", "no_cot")
"""Variants of Coconut without latent steps."""


class CoconutSettings(MethodSettings):
    """Coconut (arXiv 2412.06769): text steps are replaced by latent steps, one more in each curriculum stage.

    Written once, it becomes a chain of stages: `NAME.0`, `NAME.1`, ... Each starts from the last weights of
    the one before; `train.keep.best` keeps a checkpoint beside, it does not change that.
    """

    method = "coconut"
    implementation = "jobs.methods.coconut:Coconut"
    output = "checkpoint"
    trains = True
    latent = True
    metrics = ("loss", "accuracy")

    variant: Literal["coconut", "no_thoughts", "cot", "no_cot"] = "coconut"
    """`no_thoughts`: the curriculum without latent steps or markers; `cot`: all steps as text, one stage;
    `no_cot`: the answer alone, one stage. (`latent.input: pause` is the pause ablation.)"""
    latents_per_step: int = Field(default=2, ge=1, le=64)
    """c: latent steps in place of one text step."""
    max_stage: int = Field(default=3, ge=0, le=1000)
    """The last stage that replaces one more step; the stage after it has no text steps left."""
    first_stage: int = Field(default=0, ge=0)
    """Where the curriculum begins; 1 if the model already writes its steps."""
    epochs: EpochList | None = None
    """One for each stage from `first_stage` on, such as [6, 3, 3, 3, 3] or "6 3^4"; one number: the same for
    every stage up to max_stage + 1. Unsaid: `train.epochs` or `train.steps` for each."""
    optimizer_steps: StepList | None = None
    """The same in optimizer steps, instead of `epochs`."""
    curriculum: bool = True
    """false: only the last stage's data, from the start (the published ablation)."""
    stage: int | None = Field(default=None, ge=0)
    """Which curriculum stage this stage trains; set by the chain. Said by hand: one stage and no chain."""
    eval_each: bool | dict[str, Any] = False
    """Evaluate after each curriculum stage, on the validation problems (else the dataset's test split) and
    with the checkpoint's latent settings; a map is what those evaluations say besides, such as
    `{dataset: {limit: 200}, sampling: {max_new_tokens: 64}}`."""
    count: Literal["scheduled", "per_example", "difficulty"] = "scheduled"
    """`scheduled`: Coconut's; `per_example`: min(stage, steps) · c, all else stays text; `difficulty`: every
    step is replaced, by a number of latent steps that follows the problem's difficulty."""
    difficulty: DifficultySpec | None = None
    """For `count: difficulty`."""
    pad_latent_to_max: bool = False
    """Of `scheduled`, past max_stage: max_stage · c latent steps even for problems with fewer steps."""
    overflow: Literal["keep", "truncate"] = "keep"
    """Of `per_example`, in the last stage: steps beyond the stage's number stay as text, or are left out."""
    data_mixing_ratio: float | None = Field(default=None, ge=0)
    """Train on problems with at least as many steps as the stage, and so many shorter ones for each of them;
    unsaid: on all."""
    uniform_prob: float = Field(default=0.0, ge=0, le=1)
    """With this probability a row is laid out for a stage drawn from 0 to its number of steps."""
    dynamic: bool = False
    """The model learns when to stop: after each latent step it is taught to go on or to end the span."""
    steps: Literal["auto", "formula", "sentence"] = "auto"
    """As `sft.steps`."""
    reset_optimizer: Literal["never", "on_stage", "every_epoch"] = "on_stage"
    """When AdamW's moments are forgotten."""
    schedule: Literal["sequential", "jacobi"] = "sequential"
    """`jacobi`: all latent steps at once, `sweeps` times (PCCoT, arXiv 2506.18582)."""
    sweeps: int | None = Field(default=None, ge=1)
    """T, for `schedule: jacobi`. As many as latent steps: exactly `sequential`."""
    marker_init: str | None = "<<"
    """Added marker tokens start as a copy of this text's first token; null: as the mean of all embeddings."""

    @model_validator(mode="after")
    def _whole(self) -> CoconutSettings:
        if self.epochs is not None and self.optimizer_steps is not None:
            raise ValueError("give epochs or optimizer_steps, not both")
        if (self.schedule == "jacobi") != (self.sweeps is not None):
            raise ValueError("sweeps belongs to schedule: jacobi: give both or neither")
        if (self.count == "difficulty") != (self.difficulty is not None):
            raise ValueError("difficulty belongs to count: difficulty: give both or neither")
        if self.pad_latent_to_max and self.count != "scheduled":
            raise ValueError(f"pad_latent_to_max belongs to count: scheduled, not {self.count}")
        if self.overflow == "truncate" and self.count != "per_example":
            raise ValueError(f"overflow belongs to count: per_example, not {self.count}")
        for key, said in (("dynamic", self.dynamic), ("schedule", self.schedule == "jacobi")):
            if said and self.variant in TEXT_ONLY:
                raise ValueError(f"{key} does nothing in the variant {self.variant}: it has no latent steps")
        for key in ("stage", "first_stage"):
            number = getattr(self, key) or 0
            if number > self.max_stage + 1:
                raise ValueError(
                    f"{key} ({number}) is beyond the last stage, max_stage + 1 ({self.max_stage + 1})"
                )
        return self

    @model_validator(mode="after")
    def _means_something(self) -> CoconutSettings:
        staged = self.variant in ("coconut", "no_thoughts")
        if self.count == "difficulty" and self.variant != "coconut":
            raise ValueError(f"count: difficulty belongs to variant: coconut, not to {self.variant}")
        for key in ("uniform_prob", "data_mixing_ratio"):
            if getattr(self, key) and (not staged or self.count == "difficulty"):
                raise ValueError(f"{key} belongs to a curriculum of stages")
        return self

    @property
    def chained(self) -> bool:
        """Whether there is a curriculum to go through: it becomes a chain of stages."""
        staged = self.variant in ("coconut", "no_thoughts") and self.count != "difficulty"
        return staged and self.curriculum and self.stage is None

    def stages(self) -> list[int | None]:
        """The curriculum stages to train, in order. None: there are none to speak of (`cot`, `no_cot`)."""
        if self.variant in ("cot", "no_cot"):
            return [None]
        if self.stage is not None:
            return [self.stage]
        last = self.max_stage + 1
        return [*range(self.first_stage, last + 1)] if self.chained else [last]


class GradedSettings(EngineSpec, MethodSettings):
    """Base of methods that generate answers and grade them."""

    grader: str = "auto"
    """`auto` takes the dataset's; or math, numeric, countdown, choice, exact, prosqa, or one of a plugin."""
    grade_timeout: float = Field(default=10.0, gt=0)
    """Hard limit per answer, in seconds."""


class EvalSettings(GradedSettings):
    """Generate, grade, count."""

    method = "eval"
    implementation = "jobs.methods.evaluate:Evaluate"
    output = "scores"
    role = "eval"
    generates = True
    latent = True
    sources = ((("tree", "divergence"), "judge"),)

    trace: Literal["off", "summary", "full"] = "full"
    """What is kept of each latent step: `summary`: entropy and the first token; `full`: the `trace_top` first
    tokens with their probabilities."""
    trace_top: int = Field(default=5, ge=1, le=100)
    trace_problems: int = Field(default=100, ge=0)
    """Only the first so many problems are traced."""
    tree: TreeSpec | None = None
    """Search each problem's answers as a tree, `sampling.samples` of them, instead of drawing them."""
    diversity: bool = False
    """Also say how different the answers of a problem are; always said of searched ones."""


class CalibrateSettings(EngineSpec, MethodSettings):
    """Which entropy threshold leaves which share of latent steps above it."""

    method = "calibrate"
    implementation = "jobs.methods.calibrate:Calibrate"
    output = "scores"
    role = "eval"
    generates = True
    latent = True

    thresholds: list[Annotated[float, Field(gt=0)]] = Field(
        default=[0.01, 0.05, 0.1, 0.2, 0.5, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0], min_length=1
    )
    """In nats, rising: rows of the table."""
    target_ratio: float | None = Field(default=None, gt=0, lt=1)
    """Also find the threshold above which this share of latent steps lies."""

    @field_validator("thresholds")
    @classmethod
    def _rising(cls, values: list[float]) -> list[float]:
        for before, value in pairwise(values):
            if value <= before:
                raise ValueError(f"{value:g} stands after {before:g}: thresholds rise, each stands once")
        return values


AnySettings = TypeVar("AnySettings", bound=MethodSettings)
METHODS: dict[str, type[MethodSettings]] = {}
_STAGES: dict[str, type[StageBase]] = {}


def register(settings: type[AnySettings]) -> type[AnySettings]:
    """Make a method known under `settings.method`; usable as a decorator."""
    METHODS[settings.method] = settings
    _STAGES.pop(settings.method, None)
    return settings


register(SftSettings)
register(CoconutSettings)
register(EvalSettings)
register(CalibrateSettings)


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
        if not settings.reads_dataset:
            fields["dataset"] = (None, None)
        _STAGES[method] = create_model(
            f"{method.title().replace('-', '')}Stage", __base__=StageBase, **fields
        )
    return _STAGES[method]


from latentctl.spec import divergence, grpo, probe, serving  # noqa: E402, F401  (they register theirs, and need what stands above)
