"""Correction for text that an engine drew from a policy which is not quite the trainer's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latentctl.spec.grpo import MismatchSpec


class Correction(NamedTuple):
    """For T text tokens of `count` samples."""

    tokens: Tensor
    """(T,) what each token's loss is multiplied by."""
    samples: Tensor
    """(count,) what every position of a sample is multiplied by: 0 where `sequence_mask` leaves it out."""
    gap: Tensor
    """(T,) log π_trainer - log π_engine."""


def correction(trainer: Tensor, engine: Tensor, rows: Tensor, count: int, spec: MismatchSpec) -> Correction:
    """`trainer`, `engine` (T,): log-probs of the drawn tokens before the update, under the trainer's policy
    and as the engine reported them; `rows` (T,) int64: whose they are. With w = exp(trainer - engine):

    `token_truncate` min(w, cap) (truncated importance sampling); `token_mask` w in [1 / cap, cap], else 0
    (IcePop); `sequence_mask`: samples whose product of w lies outside count nothing.
    """
    gap = (trainer - engine).detach()
    ones = torch.ones_like(gap)
    whole = torch.ones(count, dtype=gap.dtype, device=gap.device)
    if spec.mode == "token_truncate":
        return Correction(gap.exp().clamp(max=spec.cap), whole, gap)
    limit = torch.tensor(spec.cap).log().item()
    if spec.mode == "token_mask":
        w = gap.exp()
        return Correction(w.masked_fill(gap.abs() > limit, 0.0), whole, gap)
    if spec.mode == "sequence_mask":
        total = torch.zeros_like(whole).index_add(0, rows, gap)
        return Correction(ones, (total.abs() <= limit).to(gap.dtype), gap)
    return Correction(ones, whole, gap)
