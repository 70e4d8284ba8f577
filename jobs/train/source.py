"""Where a training's batches come from, and how it is validated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from jobs.train.engine import Engine
from jobs.train.feed import Feed, validation_batches
from jobs.train.objective import Batch, Objective
from jobs.train.split import Split


class Source(Protocol):
    """One stage's, in one process. Every method is called by all processes at the same step."""

    rows: int
    """Of one epoch."""
    validates: bool

    def batches(self, start: int, end: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of the optimizer steps `start` .. `end` - 1. Asked for the next ones, the
        steps before are done. Raises `jobs.methods.protocol.Preempted` on all ranks where it was told to
        stop before they were whole."""
        ...

    def begins_epoch(self, step: int) -> bool: ...

    def epoch(self, step: int) -> float: ...

    def validate(self) -> dict[str, float]:
        """The metrics of a validation now."""
        ...

    def told(self) -> dict[str, float]:
        """Numbers of the newest batches, for the log."""
        ...

    def save(self, folder: Path) -> None:
        """What a resume needs of it, into a checkpoint of now."""
        ...

    def load(self, folder: Path) -> None:
        """Go on as a checkpoint says."""
        ...


class Supervised:
    """Rows in the order of a `Feed`; validated by the objective's own metrics. Nothing of it is state."""

    def __init__(
        self,
        feed: Feed,
        engine: Engine,
        objective: Objective,
        *,
        validation: Sequence[Any] | None,
        split: Split,
        workers: int,
    ) -> None:
        self.feed, self.engine, self.objective, self.split = feed, engine, objective, split
        self.validation, self.workers = validation, workers
        self.rows = len(feed.rows)
        self.validates = validation is not None

    def batches(self, start: int, end: int) -> Iterator[list[Batch]]:
        return self.feed.batches(start, end, workers=self.workers)

    def begins_epoch(self, step: int) -> bool:
        return self.feed.begins_epoch(step)

    def epoch(self, step: int) -> float:
        return self.feed.epoch(step)

    def validate(self) -> dict[str, float]:
        assert self.validation is not None, "there is nothing to validate on"
        batches = validation_batches(self.validation, self.objective, self.split)
        return self.engine.measure(batches, self.objective.metrics)

    def told(self) -> dict[str, float]:
        return {}

    def save(self, folder: Path) -> None:
        pass

    def load(self, folder: Path) -> None:
        pass
