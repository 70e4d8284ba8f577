"""Ready attention masks for a forward in several passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Masks:
    """Who may look at whom among the L columns of a batch: causal, padding left out, sliding windows kept.

    Additive in the model's dtype, made once per pass: transformers would make a boolean one at every pass and
    turn it into numbers in every layer.
    """

    def __init__(self, config: Any, mask: Tensor | None, columns: int, like: Tensor) -> None:
        self.kinds = getattr(config, "layer_types", None)
        self.sliding: int | None = getattr(config, "sliding_window", None)
        self.like = like
        self.index = torch.arange(columns, device=like.device)
        self.lowest = torch.finfo(like.dtype).min
        self.pads = None
        if mask is not None:
            self.pads = like.new_zeros(mask.shape).masked_fill_(mask == 0, self.lowest)[:, None, None]

    def __call__(self, start: int, end: int) -> Any:
        """For queries in columns start .. end - 1 and keys in 0 .. end - 1: (B or 1, 1, T, end), None where
        nothing is hidden; for a model with several kinds of layer one for each by its name."""
        if not self.kinds or set(self.kinds) == {"full_attention"}:
            window = self.sliding if not self.kinds else None
            return self._one(start, end, window)
        return {
            kind: self._one(start, end, self.sliding if kind == "sliding_attention" else None)
            for kind in set(self.kinds)
        }

    def _one(self, start: int, end: int, window: int | None) -> Tensor | None:
        pads = None if self.pads is None else self.pads[..., :end]
        if window is not None and window >= end:
            window = None
        if end - start == 1 and window is None:
            return pads
        query, key = self.index[start:end, None], self.index[None, :end]
        hidden = key > query
        if window is not None:
            hidden = hidden | (key <= query - window)
        if pads is None:
            return self.like.new_zeros(hidden.shape).masked_fill_(hidden, self.lowest)[None, None]
        return pads.masked_fill(hidden[None, None], self.lowest)
