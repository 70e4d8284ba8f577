"""Which rollouts make a set, which optimizer step trains on which of them, and who makes them.

Functions of the settings alone, the same on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.train.split import Split


@dataclass(frozen=True)
class SetPlan:
    """A set is `minibatches` global batches; groups stand side by side in it, minibatches one after the
    other."""

    split: Split
    group: int
    minibatches: int
    passes: int

    @property
    def rollouts(self) -> int:
        return self.split.batch * self.minibatches

    @property
    def groups(self) -> int:
        return self.rollouts // self.group

    @property
    def updates(self) -> int:
        """Optimizer steps on one set."""
        return self.minibatches * self.passes

    def minibatch(self, step: int) -> range:
        """Places of the rollouts that the optimizer step `step` (from 0) trains on."""
        first = step % self.updates % self.minibatches * self.split.batch
        return range(first, first + self.split.batch)

    @property
    def whole_groups(self) -> bool:
        """Whether every group is made by one rank: a prompt is read once then, and a tree needs it."""
        return self.split.batch % (self.group * self.split.world) == 0

    def mine(self, step: int) -> list[int]:
        """Those of them that this rank trains on, and makes."""
        places = self.minibatch(step)
        if self.whole_groups:
            return [p for p in places if p // self.group % self.split.world == self.split.rank]
        return [place for part in self.split.parts(places) for place in part]

    @property
    def every(self) -> list[int]:
        """This rank's places in the whole set."""
        return [place for step in range(self.minibatches) for place in self.mine(step)]

    def parts(self, rows: list[int]) -> list[list[int]]:
        """This rank's rows of one step as its micro-batches: as many as the engine accumulates, however many
        rows are left."""
        size = -(-len(rows) // self.split.accumulate)
        return [rows[i * size : (i + 1) * size] for i in range(self.split.accumulate)]
