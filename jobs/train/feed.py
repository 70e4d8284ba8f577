"""Rows become this rank's micro-batches, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from jobs.train.objective import Batch, Item, Objective
from jobs.train.order import Order
from jobs.train.split import Split


class Feed(Dataset[list[Batch]]):
    """`feed[step]` is this rank's micro-batches of one optimizer step: a function of the step, without
    state."""

    def __init__(self, rows: Sequence[Any], objective: Objective, *, order: Order, split: Split) -> None:
        self.rows, self.objective, self.order, self.split = rows, objective, order, split

    def __getitem__(self, step: int) -> list[Batch]:
        parts = self.split.parts(self.order.places(step))
        return [
            self.objective.collate([Item(self.rows[self.order.row(p)], p) for p in part]) for part in parts
        ]

    def batches(self, start: int, end: int, *, workers: int = 0) -> Iterator[list[Batch]]:
        """Steps `start` .. `end` − 1 in order; `workers` processes prepare them ahead."""
        if workers == 0:
            return (self[step] for step in range(start, end))
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=range(start, end),
            num_workers=workers,
            collate_fn=_as_it_is,
            multiprocessing_context="fork",
        )
        return iter(loader)

    def begins_epoch(self, step: int) -> bool:
        """Whether the batch of `step` is the first one whose first row belongs to a new epoch."""
        rows = self.order.rows
        return step > 0 and self.order.places(step).start // rows > self.order.places(step - 1).start // rows

    def epoch(self, step: int) -> float:
        """How often the rows have been seen after `step` steps, on average."""
        places = self.order.places(step - 1)
        return round(places.stop / self.order.rows, 4)


def validation_batches(rows: Sequence[Any], objective: Objective, split: Split) -> Iterator[Batch]:
    """This rank's share of a validation set: each row on one rank, equally many batches on each."""
    for chunk in split.chunks(len(rows)):
        yield objective.collate([Item(rows[i], i) for i in chunk])


def _as_it_is(value: Any) -> Any:
    return value
