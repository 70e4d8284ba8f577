"""The tokens that a soft input mixes: temperature, top-k, top-p, min-p, then at most so many (`cap`).

Each filter acts on what the one before left, renormalised. The order is that of logits, largest first, ties
by token id; a count (top-k, cap) is exact and top-p keeps the smallest set, so tokens that tie with the last
one kept are dropped, lowest ids kept; min-p keeps all that tie. Only among tokens that tie with the last one
looked at (`Knobs.look`) is the choice left to `torch.topk`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from jobs.latent.knobs import Knobs

_FIRST = 32
_WIDER = 16


class Kept(NamedTuple):
    """The kept tokens of N rows, most likely first."""

    ids: Tensor
    """(N, K)"""
    logp: Tensor
    """(N, K) log-probs among the kept ones; -inf: dropped."""
    entropy: Tensor
    """(N,) of the whole distribution before filters, in nats; NaN where no row asks for it."""
    mass: Tensor
    """(N,) probability of the kept tokens before filters."""


def keep(logits: Tensor, knobs: Knobs, width: int | None) -> Kept:
    """What the filters leave of `logits` (N, V), normalised by the log-sum-exp over all V.

    `width` K: a static number of tokens, no look at values on the host. None: as many as the filters of any
    row keep; looks at values to widen the search in the rows that need it. Differentiable in the logits.
    """
    peak = logits.detach().amax(-1, keepdim=True)
    scale = knobs.temperature.to(logits.dtype)[:, None]
    log_norm, entropy = log_partition(logits, peak, scale, knobs.entropic and not knobs.reheats)
    if knobs.entropic and knobs.reheats:
        _, entropy = log_partition(logits, peak, knobs.heat.to(logits.dtype)[:, None], True)
    if width is None:
        values, ids, kept = _widen(logits, peak, scale, log_norm, knobs, max(_FIRST, knobs.look))
    else:
        values, ids = _largest(logits, max(width, knobs.look))
        values = (values - peak) / scale - log_norm
        kept = _filter(values, knobs)[:, :width]
        values, ids = values[:, :width], ids[:, :width]
    values = values.masked_fill(~kept, -torch.inf)
    total = values.logsumexp(-1, keepdim=True)
    if entropy is None:
        entropy = torch.full_like(log_norm, torch.nan)
    return Kept(ids, values - total, entropy.squeeze(-1), total.squeeze(-1).exp())


def log_partition(
    logits: Tensor, peak: Tensor, scale: Tensor, entropic: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-sum-exp of (logits - peak) / scale and, if asked, the entropy of that distribution, each (N, 1).

    `logits` (N, V); `peak` (N, 1) their maximum; `scale` (N, 1).
    """
    scaled = (logits - peak) / scale
    mass = scaled.exp()
    total = mass.sum(-1, keepdim=True)
    if not entropic:
        return total.log(), None
    finite = scaled.clamp(min=-1e4)  # 0 · -inf
    return total.log(), total.log() - (mass * finite).sum(-1, keepdim=True) / total


def _largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and ids (N, k) of the largest logits, descending, ties by id."""
    values, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
    ids, order = ids.sort(-1)
    values, back = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, back)


def _filter(logp: Tensor, knobs: Knobs) -> Tensor:
    """(N, L) bool: which of the tokens `logp` (N, L), largest first, pass all filters."""
    logp = logp.detach().double()
    rank = torch.arange(logp.shape[-1], device=logp.device)
    top_k = knobs.top_k[:, None]
    kept = (rank < top_k) | (top_k == 0)
    among = logp.masked_fill(~kept, -torch.inf).logsumexp(-1, keepdim=True)
    probs = (logp - torch.where(top_k > 0, among, torch.zeros_like(among))).exp()
    before = probs.cumsum(-1) - probs
    kept &= (before < knobs.top_p[:, None]) | (knobs.top_p[:, None] >= 1)
    kept &= logp - logp[:, :1] >= knobs.min_p[:, None].log()
    return kept & (rank < knobs.cap[:, None])


def _widen(
    logits: Tensor, peak: Tensor, scale: Tensor, log_norm: Tensor, knobs: Knobs, look: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, ids and kept, each (N, K), K as many as any row keeps."""
    look = min(look, logits.shape[-1])
    values, ids = _largest(logits, look)
    values = (values - peak) / scale - log_norm
    kept = _filter(values, knobs)
    count = kept.sum(-1)
    more = ((count == look) & (knobs.cap > look)).nonzero().squeeze(-1)
    if look == logits.shape[-1] or not len(more):
        k = max(1, int(count.max())) if len(count) else 1
        return values[:, :k], ids[:, :k], kept[:, :k]
    wide = _widen(logits[more], peak[more], scale[more], log_norm[more], knobs.take(more), look * _WIDER)
    room = (0, wide[0].shape[1] - look)
    return (
        functional.pad(values, room).index_copy(0, more, wide[0]),
        functional.pad(ids, room).index_copy(0, more, wide[1]),
        functional.pad(kept, room).index_copy(0, more, wide[2]),
    )
