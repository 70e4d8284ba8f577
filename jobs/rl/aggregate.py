"""How the losses of positions add up to the loss of an optimizer step, whatever its split.

The loss is Σ_rows scale · Σ_positions loss / Σ_rows weight over all micro-batches of all ranks: `scale` and
`weight` depend on the step's rows alone, so any split into micro-batches and ranks gives the same.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["dapo", "dr_grpo", "grpo", "bnpo"]


def scales(
    positions: Tensor, active: Tensor, kind: Kind, *, max_len: int, local_rows: int
) -> tuple[Tensor, Tensor]:
    """`scale` and `weight` (B,) float64 of the rows of one step, which have `positions` (B,) each.

    Rows that are not `active` (B,) bool weigh nothing, and so do those without a position. With n_b the
    positions of row b: `dapo` (arXiv 2503.14476) scale 1, weight n_b; `grpo` (arXiv 2402.03300) scale
    1 / n_b, weight 1; `dr_grpo` (arXiv 2503.20783) scale 1, weight max_len; `bnpo` scale 1 / (positions of
    its local batch of `local_rows` neighbouring rows), weight 1 / (active rows of it).
    """
    active = active & (positions > 0)
    n = positions.double().masked_fill(~active, 0.0)
    on = active.double()
    if kind == "dapo":
        return on, n
    if kind == "grpo":
        return on / n.clamp(min=1), on
    if kind == "dr_grpo":
        return on, on * max_len
    local = torch.arange(len(n)) // local_rows
    size = int(local.max()) + 1 if len(n) else 0
    tokens = n.new_zeros(size).index_add(0, local, n)
    rows = n.new_zeros(size).index_add(0, local, on)
    return on / tokens[local].clamp(min=1), on / rows[local].clamp(min=1)
