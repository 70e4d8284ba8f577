"""What a method tells the training loop: how rows become a batch, and what the loss of a batch is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from torch import nn


class Item(NamedTuple):
    """One row at its place in the training."""

    row: Any
    place: int
    """Counts rows from the start of the training (in validation: of the set). Unique, and the same for every
    split into processes and micro-batches: what a draw for this row should depend on."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the host."""

    tensors: dict[str, Any]
    """For `Objective.loss`: tensors, which go to the device, and plain ints, which do not."""
    weight: float
    """What the sum of the loss is divided by, added up over the global batch: supervised tokens, for a token
    mean."""
    tokens: int
    """Positions that a model has to compute, padding left out."""
    rows: int


class Outcome(NamedTuple):
    """What `Objective.loss` gives: sums over the micro-batch, never means."""

    loss: torch.Tensor
    """(), fp32, connected to the graph even for an empty micro-batch."""
    metrics: dict[str, torch.Tensor]
    """(), each a sum; without gradient. Measured: divided by the weight like the loss, unless there is a sum
    NAME_n beside NAME, which then divides it. An objective may give such pairs in training too: they are
    logged, and their names are the same in every batch."""


class Objective(Protocol):
    """A method's side of the loop. One object may be shared by the processes that prepare batches: no
    state."""

    metrics: tuple[str, ...]
    """Names of the metrics that a validation measures, besides `loss`."""

    def collate(self, items: Sequence[Item]) -> Batch:
        """Rows to tensors. `items` may be empty (the last, shorter batch of a training; a rank without rows
        in a validation): then a smallest valid batch of weight 0, because ZeRO-3 needs the same calls on
        every rank."""
        ...

    def loss(self, model: Any, tensors: dict[str, Any], *, measure: bool) -> Outcome:
        """Forward. May call `model` (the Hugging Face model) any number of times; it runs inside one forward
        of the engine. `measure` asks for the metrics."""
        ...


Ask = Literal["loss", "measure", "score"]
"""What a forward is for."""


class Scores(Protocol):
    """An objective that can also say of each row what it would be trained with."""

    def score(self, model: Any, tensors: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Per row, without gradient; at least one tensor."""
        ...


class Step(nn.Module):
    """Model and objective as the one module that DeepSpeed wraps.

    Several forwards of `model` under one engine forward and one backward is the form that is right under
    every ZeRO stage; calling the inner model around the engine is silently wrong under ZeRO-3.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = (
            objective  # registered too if it is a module: learned parameters of a method train along
        )

    def forward(self, tensors: dict[str, Any], ask: Ask = "loss") -> tuple[torch.Tensor, dict[str, Any]]:
        if ask == "score":
            found = cast(Scores, self.objective).score(self.model, tensors)
            return next(iter(found.values())).new_zeros(()), found
        outcome = self.objective.loss(self.model, tensors, measure=ask == "measure")
        return outcome.loss, {k: v.detach() for k, v in outcome.metrics.items()}
