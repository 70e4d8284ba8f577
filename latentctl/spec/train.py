"""Settings of one DeepSpeed training, the same for every method that trains."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from latentctl.spec.base import Spec
from latentctl.spec.model import LoraSpec


class KeepSpec(Spec):
    """Which checkpoints stay on disk."""

    last: int = Field(default=2, ge=1)
    """The newest so many."""
    best: str | None = None
    """Also the best by this validation metric, e.g. `loss` or `accuracy`."""


class EarlyStopSpec(Spec):
    """Stop when the validation metric has not improved."""

    metric: str = "loss"
    patience: int = Field(default=3, ge=1)
    """So many validations without an improvement."""
    min_delta: float = Field(default=0.0, ge=0)


class StopLosingSpec(Spec):
    """Of a sweep: end the training of points that fall behind the others. What they learnt is kept, and the
    stages after it run."""

    metric: str
    """A validation metric; `loss` falls, every other rises."""
    pruner: Literal["halving", "median"] = "halving"
    """`halving` (asynchronous successive halving, arXiv 1810.05934): at the steps after, after × factor,
    after × factor², ... only the best 1/factor of the points that came there go on. `median`: a point ends
    where its best value is worse than the median of the points that are done with their training."""
    after: int = Field(default=1, ge=1)
    """No point ends before this optimizer step."""
    factor: int | None = Field(default=None, ge=2)
    """Of `halving`; 3 if unsaid."""
    points: int | None = Field(default=None, ge=1)
    """Of `median`: so many points must be done first; 4 if unsaid."""

    @model_validator(mode="after")
    def _own(self) -> StopLosingSpec:
        other = {"halving": "points", "median": "factor"}[self.pruner]
        if getattr(self, other) is not None:
            raise ValueError(f"{other} does nothing with pruner: {self.pruner}")
        return self


def _keep(value: Any) -> Any:
    return {"last": value} if isinstance(value, int) and not isinstance(value, bool) else value


class TrainSpec(Spec):
    """Optimisation, precision, cadence."""

    lr: float = Field(default=1e-5, gt=0, lt=10)
    """Peak learning rate of AdamW."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data; give this or `steps`. One epoch if neither is given."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; instead of `epochs`."""
    batch: int = Field(default=32, ge=1)
    """Global batch in rows: per optimizer step, over all processes and accumulation."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Rows per process and forward; as many as the global batch allows (at most 8) if unsaid."""
    max_len: int = Field(default=1024, ge=8)
    """Longest sequence in tokens; longer rows are handled by `overlong`."""
    overlong: Literal["drop", "truncate"] = "drop"
    """Rows longer than `max_len`: left out and counted, or cut at the end."""
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    betas: list[float] = Field(default_factory=lambda: [0.9, 0.999], min_length=2, max_length=2)
    eps: float = Field(default=1e-8, gt=0)
    warmup: float = Field(default=0.0, ge=0)
    """Below 1: a share of all steps; from 1: a number of steps."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up; `linear` and `cosine` go to `min_lr_ratio` × lr."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    clip: float = Field(default=1.0, ge=0)
    """Gradient norm limit; 0 is off."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on a GPU that has it, else fp32."""
    gradient_checkpointing: bool = False
    lora: LoraSpec | None = None
    log_every: int = Field(default=1, ge=1)
    """Steps between rows in metrics.jsonl."""
    eval_every: int | None = Field(default=None, ge=1)
    """Steps between validations; needs `validation`."""
    save_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; only the end (and a preemption) if unsaid."""
    keep: Annotated[KeepSpec, BeforeValidator(_keep, json_schema_input_type=KeepSpec | int)] = Field(
        default_factory=KeepSpec
    )
    early_stop: EarlyStopSpec | None = None
    stop_losing: StopLosingSpec | None = None
    """In a sweep: end points that fall behind (needs optuna: `pip install 'latentctl[sweep]'`)."""
    workers: int = Field(default=0, ge=0, le=64)
    """Processes that prepare batches; 0: in the training process."""

    @model_validator(mode="after")
    def _agrees(self) -> TrainSpec:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        if self.micro_batch is not None and self.micro_batch > self.batch:
            raise ValueError(
                f"micro_batch ({self.micro_batch}) cannot exceed the global batch ({self.batch})"
            )
        if (self.early_stop or self.keep.best) and self.eval_every is None:
            raise ValueError("early_stop and keep.best need eval_every")
        if self.stop_losing and self.eval_every is None:
            raise ValueError("stop_losing needs eval_every")
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError("betas are two numbers from 0 to below 1")
        return self

    def micro(self, world: int) -> int:
        """Rows per forward and process: `micro_batch`, else as many as divide evenly, at most 8."""
        each = self.batch // world
        return self.micro_batch or max((m for m in range(1, 9) if each % m == 0), default=1)

    def uneven(self, world: int) -> tuple[str, str] | None:
        """Why `batch` cannot be shared by `world` processes, and a hint; None if it can."""
        if self.batch % world:
            return (
                f"a global batch of {self.batch} rows cannot be shared evenly by {world} processes",
                f"set train.batch to {_near(self.batch, world)}, or change the number of processes",
            )
        each, micro = self.batch // world, self.micro(world)
        if each % micro:
            fits = ", ".join(str(m) for m in range(1, each + 1) if each % m == 0)
            near = _near(self.batch, micro * world)
            return (
                f"train.batch {self.batch} is not a multiple of train.micro_batch × processes "
                f"({micro} × {world})",
                f"set train.batch to {near}, or train.micro_batch to one of {fits}",
            )
        return None


def _near(batch: int, unit: int) -> str:
    below, above = batch // unit * unit, -(-batch // unit) * unit
    return f"{below} or {above}" if below else str(above)
