"""The largest logits of each row, cheaply where the vocabulary is large."""

from __future__ import annotations

import torch
from torch import Tensor

_GROUP = 64
"""Logits of one group."""


def largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and ids (N, k) of the k largest of `logits` (N, V), descending, ties by id.

    Which of several that tie with the last one are among the k is left to `torch.topk`. Differentiable in
    the values.
    """
    k = min(k, logits.shape[-1])
    ids = _candidates(logits.detach(), k).sort(-1).values
    values, order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, order)


def _candidates(logits: Tensor, k: int) -> Tensor:
    """Ids (N, k) of the k largest, in any order.

    On a CPU `topk` walks the row number by number. The maxima of groups of neighbours are one vectorised
    pass; the k groups with the largest maxima hold the k largest logits, for a logit outside them has k
    larger or equal ones. `topk` then sees the groups' maxima and their members only.
    """
    n, size = logits.shape
    groups = size // _GROUP
    if logits.device.type != "cpu" or groups < 4 * k:
        return logits.topk(k, dim=-1).indices
    body = groups * _GROUP
    maxima = logits[:, :body].view(n, groups, _GROUP).amax(-1)
    chosen = maxima.topk(k, dim=-1, sorted=False).indices
    members = (chosen[..., None] * _GROUP + torch.arange(_GROUP)).view(n, -1)
    members = torch.cat([members, torch.arange(body, size).expand(n, -1)], -1)
    return members.gather(-1, logits.gather(-1, members).topk(k, dim=-1, sorted=False).indices)
