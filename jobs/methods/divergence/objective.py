"""The loss of a divergence model."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from jobs.models.divergence import padded
from jobs.train.objective import Batch, Item, Outcome

_NEAR = 0.25


@dataclass(frozen=True)
class JudgeRow:
    """A triple as token ids of the encoder."""

    ids: array[int]
    label: float

    @property
    def length(self) -> int:
        return len(self.ids)


class JudgeObjective:
    """See `jobs.train.objective.Objective`. `near`: the share of rows whose score is off by less than 0.25
    (document 000)."""

    metrics: tuple[str, ...] = ("near",)

    def __init__(self, kind: str, pad: int) -> None:
        self.kind, self.pad = kind, pad

    def collate(self, items: Sequence[Item]) -> Batch:
        rows = [item.row for item in items]
        ids, mask = padded([row.ids for row in rows] or [[self.pad]], self.pad)
        labels = torch.tensor([row.label for row in rows] or [0.0])
        weights = torch.ones(len(labels)) if rows else torch.zeros(1)
        tensors = {"ids": ids, "mask": mask, "labels": labels, "weights": weights}
        return Batch(tensors, float(len(rows)), sum(row.length for row in rows), len(rows))

    def loss(self, model: Any, tensors: dict[str, Any], *, measure: bool) -> Outcome:
        logits = model(tensors["ids"], tensors["mask"])
        labels, weights = tensors["labels"], tensors["weights"]
        scores = logits.sigmoid()
        if self.kind == "bce":
            each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        else:
            each = (scores - labels) ** 2
        near = ((scores - labels).abs() < _NEAR).float()
        return Outcome((each * weights).sum(), {"near": (near * weights).sum()} if measure else {})
