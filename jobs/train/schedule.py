"""How long to train, and the learning rate over the steps."""

from __future__ import annotations

import math

from latentctl.spec.train import TrainSpec


def total_rows(train: TrainSpec, rows: int) -> int | None:
    """Where the stream of rows ends: after `epochs` passes; None where the recipe counts steps."""
    if train.steps is not None:
        return None
    return max(1, math.ceil(round((train.epochs or 1.0) * rows, 6)))


def total_steps(train: TrainSpec, rows: int) -> int:
    """Optimizer steps; the last batch of an epoch count may be shorter."""
    end = total_rows(train, rows)
    return train.steps or -(-(end or 0) // train.batch)


def warmup_steps(train: TrainSpec, total: int) -> int:
    """`warmup` below 1 is a share of all steps (rounded up), from 1 a number of steps."""
    return math.ceil(train.warmup * total) if train.warmup < 1 else int(train.warmup)


def lr_factor(train: TrainSpec, total: int, step: int) -> float:
    """The learning rate of `step` (from 0) as a factor of `train.lr`.

    Warm-up of W steps: (step + 1) / W, so that no step is wasted at 0 and step W − 1 has the full rate. Then
    with p = (step − W) / (total − W), m = `min_lr_ratio`: constant 1; linear 1 − (1 − m) p; cosine m + (1 −
    m)(1 + cos πp) / 2.
    """
    warmup = warmup_steps(train, total)
    if step < warmup:
        return (step + 1) / warmup
    if train.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if train.schedule == "linear":
        return 1.0 - (1.0 - train.min_lr_ratio) * progress
    return train.min_lr_ratio + (1.0 - train.min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
