"""The clipped policy gradient of positions, text tokens and latent steps alike."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from latentctl.spec.grpo import GrpoSettings

Ratio = Literal["token", "sequence"]


class Surrogate(NamedTuple):
    """Of P positions."""

    loss: Tensor
    """(P,)"""
    ratio: Tensor
    """(P,) without gradient"""
    low: Tensor
    """(P,) bool: the lower bound took effect."""
    high: Tensor
    """(P,) bool: the upper one."""


def surrogate(
    new: Tensor, old: Tensor, advantage: Tensor, rows: Tensor, count: int, settings: GrpoSettings
) -> Surrogate:
    """-min(ρ A, clip(ρ, 1 - low, 1 + high) A) of each position (PPO, arXiv 1707.06347), with
    ρ = exp(new - old).

    `new`, `old` (P,) log-probs, `advantage` (P,), `rows` (P,) int64: which of the `count` samples a position
    belongs to. `ratio: sequence`: ρ is exp of the mean of new - old over the sample's positions, the same for
    all of them (GSPO, arXiv 2507.18071). `clip_delta`: ρ never counts more than this (two-sided). `old` is
    data.
    """
    gap = new - old.detach()
    if settings.ratio == "sequence":
        gap = mean_over(gap, rows, count)[rows]
    ratio = gap.exp()
    bounded = ratio if settings.clip_delta is None else ratio.clamp(max=settings.clip_delta)
    clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    loss = -torch.minimum(bounded * advantage, clipped * advantage)
    fixed = ratio.detach()
    low = (fixed < 1 - settings.clip_low) & (advantage < 0)
    high = (fixed > 1 + settings.clip_high) & (advantage > 0)
    return Surrogate(loss, fixed, low, high)


def mean_over(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """(count,) the mean of `values` (P,) over each row's positions, 0 where it has none."""
    n = torch.zeros(count, dtype=values.dtype, device=values.device).index_add(
        0, rows, torch.ones_like(values)
    )
    return values.new_zeros(count).index_add(0, rows, values) / n.clamp(min=1)


def k3(new: Tensor, other: Tensor) -> Tensor:
    """(P,) exp(r) - r - 1 with r = other - new: an estimate of the KL divergence from the policy to the other
    model that is never negative (Schulman 2020). Of draws of the policy its mean is unbiased."""
    gap = other - new
    return gap.exp() - gap - 1
