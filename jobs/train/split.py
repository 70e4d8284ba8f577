"""How a global batch is shared between processes and accumulation steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from jobs.runtime.errors import JobUserError
from latentctl.spec.train import TrainSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """`micro` rows × `accumulate` forwards × `world` processes make one global batch."""

    micro: int
    accumulate: int
    world: int
    rank: int

    @property
    def batch(self) -> int:
        return self.micro * self.accumulate * self.world

    def parts(self, items: Sequence[T]) -> list[Sequence[T]]:
        """This rank's micro-batches of one global batch, in order; short or empty ones where `items` is
        short."""
        starts = [(a * self.world + self.rank) * self.micro for a in range(self.accumulate)]
        return [items[s : s + self.micro] for s in starts]

    def chunks(self, count: int) -> list[range]:
        """This rank's part of `count` rows: the same number of chunks on each rank, each row on one rank
        only."""
        stride = self.micro * self.world
        starts = range(self.rank * self.micro, self.rank * self.micro + count, stride)
        rounds = -(-count // stride)
        return [range(min(s, count), min(s + self.micro, count)) for s in list(starts)[:rounds]]


def split_of(train: TrainSpec, *, world: int, rank: int) -> Split:
    """The split that `train.batch` and `train.micro_batch` ask for. Raises JobUserError where it does not
    come out even."""
    uneven = train.uneven(world)
    if uneven:
        raise JobUserError(uneven[0], hint=uneven[1])
    micro = train.micro(world)
    return Split(micro=micro, accumulate=train.batch // world // micro, world=world, rank=rank)
