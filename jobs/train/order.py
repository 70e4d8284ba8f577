"""The order in which rows are seen: a function of (seed, step), the same for every number of processes."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


class Order:
    """Epoch after epoch, each a permutation of the rows; global batches are consecutive slices of that
    stream.

    A batch may reach over the border of two epochs; with `total` given, the stream ends there and the last
    batch is shorter. So each row is seen equally often, whatever the batch.
    """

    def __init__(self, rows: int, *, batch: int, seed: int, total: int | None = None) -> None:
        if rows < 1 or batch < 1:
            raise ValueError(f"an order needs rows and a batch, not {rows} and {batch}")
        self.rows, self.batch, self.seed, self.total = rows, batch, seed, total
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def places(self, step: int) -> range:
        """The stream positions of the global batch of `step` (from 0)."""
        start = step * self.batch
        end = start + self.batch
        return range(start, end if self.total is None else min(end, self.total))

    def row(self, place: int) -> int:
        """Which row stands at a position of the stream."""
        epoch, offset = divmod(place, self.rows)
        return int(self._epoch(epoch)[offset])

    def _permutation(self, epoch: int) -> torch.Tensor:
        return torch.randperm(self.rows, generator=torch.Generator().manual_seed(mix(self.seed, epoch)))


def mix(*parts: int | str) -> int:
    """A 63-bit seed from several numbers or names: neighbours give unrelated ones."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
