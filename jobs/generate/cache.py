"""A key/value cache of slots: each row keeps its tokens from column 0 on, whatever the lengths of its
neighbours.

Position p of a row stands in column p, so a row needs no padding, may end and be replaced at any step, and
the first columns of a row are the keys and values of its prompt, ready to be copied for another sample of
the same problem.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_ROUND = 64  # columns are added in such steps


class _Where:
    """What every layer's `update` does in the current forward: shared, set by the cache."""

    rows: Tensor
    columns: Tensor
    source_rows: Tensor | None = None
    """None: one new token per row (a decoding step); else the rows of the left-padded prompts to take
    from."""
    source_columns: Tensor | None = None
    active: int = 0
    width: int = 0
    """Columns that the step looks at; in a prefill: the padded width."""
    capacity: tuple[int, int] = (0, 0)


class _SlotLayer(CacheLayerMixin):
    key_store: Tensor
    value_store: Tensor
    is_sliding = False
    is_croppable = False

    def __init__(self, where: _Where) -> None:
        super().__init__()
        self.where = where

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, columns = self.where.capacity
        self.dtype, self.device = key_states.dtype, key_states.device
        self.key_store = key_states.new_zeros(rows, key_states.shape[1], columns, key_states.shape[3])
        self.value_store = value_states.new_zeros(rows, value_states.shape[1], columns, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store (rows, heads, tokens, size); return what the queries attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = self.where
        keys, values = (
            self.key_store.transpose(1, 2),
            self.value_store.transpose(1, 2),
        )  # (rows, columns, heads, size)
        if at.source_rows is None:
            keys[at.rows, at.columns] = key_states[:, :, 0]
            values[at.rows, at.columns] = value_states[:, :, 0]
            return self.key_store[: at.active, :, : at.width], self.value_store[: at.active, :, : at.width]
        keys[at.rows, at.columns] = key_states.transpose(1, 2)[at.source_rows, at.source_columns]
        values[at.rows, at.columns] = value_states.transpose(1, 2)[at.source_rows, at.source_columns]
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.where.width, 0

    def get_seq_length(self) -> int:
        """Tokens before the current forward: none in a prefill."""
        return 0 if self.where.source_rows is not None else self.where.width - 1

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """Keys and values of up to `rows` × `columns` tokens; grows as asked, never beyond what `ensure` is
    told."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self.where = _Where()
        self.device = device
        super().__init__(layers=[_SlotLayer(self.where) for _ in range(layers)])

    def ensure(self, rows: int, columns: int, *, limit: int, budget: int) -> None:
        """Make room for `rows` × `columns`; the rows in use survive.

        Grows columns ahead of need up to `limit` (the longest that any row can become), within `budget`
        tokens.
        """
        have_rows, have_columns = self.where.capacity
        if rows <= have_rows and columns <= have_columns:
            return
        ahead = min(limit, -(-(columns + columns // 4) // _ROUND) * _ROUND)
        new = max(rows, have_rows), max(columns, ahead, min(have_columns, limit))
        if new[0] * new[1] > budget:
            new = rows, max(columns, min(ahead, budget // rows))
        self.where.capacity = new
        for layer in self._layers():
            if layer.is_initialized:
                layer.key_store = _resized(layer.key_store, new)
                layer.value_store = _resized(layer.value_store, new)

    def _layers(self) -> list[_SlotLayer]:
        return [layer for layer in self.layers if isinstance(layer, _SlotLayer)]

    def prefill_into(self, slots: Sequence[Sequence[int]], lengths: Sequence[int], width: int) -> None:
        """The next forward holds prompts, left-padded to `width`; prompt i goes to each of `slots[i]`."""
        pairs = [(i, slot) for i, group in enumerate(slots) for slot in group]
        counts = torch.tensor([lengths[i] for i, _ in pairs])
        columns = torch.cat([torch.arange(int(n)) for n in counts])
        pads = torch.tensor([width - lengths[i] for i, _ in pairs]).repeat_interleave(counts)
        at = self.where
        at.rows = torch.tensor([slot for _, slot in pairs]).repeat_interleave(counts).to(self.device)
        at.columns = columns.to(self.device)
        at.source_rows = torch.tensor([i for i, _ in pairs]).repeat_interleave(counts).to(self.device)
        at.source_columns = (columns + pads).to(self.device)
        at.width = width

    def step_at(self, positions: Tensor, width: int) -> None:
        """The next forward holds one token of each of the first `len(positions)` rows, at these positions."""
        at = self.where
        at.active, at.width = len(positions), width
        at.rows, at.columns = torch.arange(at.active, device=self.device), positions
        at.source_rows = at.source_columns = None

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of a row onto another."""
        for layer in self._layers():
            layer.key_store[target, :, :length] = layer.key_store[source, :, :length]
            layer.value_store[target, :, :length] = layer.value_store[source, :, :length]

    def wipe(self, slot: int) -> None:
        """Zeros in a row: what is masked still spreads where it is not finite."""
        for layer in self._layers():
            layer.key_store[slot] = 0
            layer.value_store[slot] = 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self._layers()[layer_idx].get_seq_length()


def _resized(old: Tensor, capacity: tuple[int, int]) -> Tensor:
    new = old.new_zeros(capacity[0], old.shape[1], capacity[1], old.shape[3])
    columns = min(old.shape[2], capacity[1])
    keep = min(old.shape[0], capacity[0])
    new[:keep, :, :columns] = old[:keep, :, :columns]
    return new
