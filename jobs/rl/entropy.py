"""The tokens of highest entropy: where a text decides (arXiv 2506.01939)."""

from __future__ import annotations

import torch
from torch import Tensor


def threshold(entropies: Tensor, share: float) -> float:
    """The entropy from which on (that one included) a token is among the `share` of highest entropy of all
    `entropies` (T,) of a set. With ties there may be a few more; of an empty set -inf."""
    if len(entropies) == 0 or share >= 1:
        return -torch.inf
    kept = max(1, round(share * len(entropies)))
    return float(entropies.sort(descending=True).values[kept - 1])
