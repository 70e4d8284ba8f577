"""How much better a rollout was than its baseline."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

EPS = 1e-4
"""Added to every standard deviation."""

Kind = Literal["group_std", "group", "leave_one_out", "batch_std"]


def advantages(rewards: Tensor, groups: Tensor, counts: Tensor, kind: Kind) -> Tensor:
    """(R,) float64. `rewards` (R,), `groups` (R,) int64 from 0, `counts` (R,) bool.

    With m and s the mean and the unbiased standard deviation of those of the group that count (s of one: 0):
    `group_std` (r - m) / (s + 1e-4) (GRPO, arXiv 2402.03300), `group` r - m (Dr. GRPO, arXiv 2503.20783),
    `leave_one_out` r less the mean of the others (RLOO, arXiv 2402.14740), `batch_std` (r - m) over the
    standard deviation of all that count (+ 1e-4). What does not count gets 0 and enters no statistic; a group
    of one gets 0, and so does, exactly, a group whose rewards are all the same.
    """
    r = rewards.double().masked_fill(~counts, 0.0)
    n = _sums(counts.double(), groups)
    mean = _sums(r, groups) / n.clamp(min=1)
    centred = (r - mean[groups]).masked_fill(~counts, 0.0)
    centred = centred.masked_fill(zero_variance(rewards, groups, counts)[groups], 0.0)
    size = n[groups]
    if kind == "group":
        return centred
    if kind == "leave_one_out":
        return centred * size / (size - 1).clamp(min=1)
    if kind == "group_std":
        std = (_sums(centred.square(), groups) / (n - 1).clamp(min=1)).sqrt()
        return centred / (std[groups] + EPS)
    held = r[counts]
    std = held.std() if len(held) > 1 else torch.zeros((), dtype=torch.float64)
    return centred / (std + EPS)


def zero_variance(rewards: Tensor, groups: Tensor, counts: Tensor) -> Tensor:
    """(G,) bool: groups whose rollouts that count all got the same reward, or that have fewer than two."""
    size = int(groups.max()) + 1 if len(groups) else 0
    high = torch.full((size,), -torch.inf, dtype=torch.float64)
    low = torch.full((size,), torch.inf, dtype=torch.float64)
    own, at = rewards.double()[counts], groups[counts]
    high = high.scatter_reduce(0, at, own, "amax")
    low = low.scatter_reduce(0, at, own, "amin")
    return high <= low


def _sums(values: Tensor, groups: Tensor) -> Tensor:
    size = int(groups.max()) + 1 if len(groups) else 0
    return values.new_zeros(size).index_add(0, groups, values)
