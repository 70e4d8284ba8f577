"""The tokens that a soft input mixes: temperature, top-k, top-p, min-p, then at most so many (`cap`).

Each filter acts on what the one before left, renormalised. The order is that of the logits, largest first,
ties by token id. A count (top-k, cap) is exact and top-p keeps the smallest set, so of tokens that tie at the
edge those with the lowest ids are kept; min-p keeps all that tie. Only among tokens that tie with the last
one looked at (`Knobs.look`) is the choice left to `torch.topk`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from jobs.latent.knobs import Knobs
from jobs.latent.largest import largest

_FIRST = 32
"""Tokens looked at first where any number may be kept; a nucleus is rarely larger."""
_WIDER = 16
_ROWS = 4
"""So many rows of a large vocabulary stay in a processor's cache from one pass to the next."""


class Kept(NamedTuple):
    """The kept tokens of N rows, most likely first."""

    ids: Tensor
    """(N, K)"""
    logp: Tensor
    """(N, K) log-probs among the kept ones; -inf: dropped."""
    entropy: Tensor
    """(N,) of the whole distribution before filters, in nats; NaN where no row asks for it."""
    mass: Tensor
    """(N,) probability of the kept tokens before filters; NaN where no row asks for it."""


class _Survey(NamedTuple):
    """The most likely tokens of N rows."""

    logits: Tensor
    """(N, L) largest first"""
    ids: Tensor
    """(N, L)"""
    highest: Tensor
    """(N,) log-prob of the first under the whole distribution: the log-sum-exp, seen from the peak. NaN
    where no row asks for it."""
    entropy: Tensor
    """(N,)"""


def keep(logits: Tensor, knobs: Knobs, width: int | None) -> Kept:
    """What the filters leave of `logits` (N, V), normalised by the log-sum-exp over all V.

    `width` K: a static number of tokens, no look at values on the host. None: as many as the filters of any
    row keep; looks at values, to widen the search in the rows that need it alone. Differentiable in the
    logits.
    """
    look = max(_FIRST if width is None else width, knobs.look)
    seen = _survey(logits, knobs.temperature, knobs.heat, look, knobs)
    gaps = _gaps(seen.logits, seen.logits[:, :1], knobs)
    ids, kept = seen.ids, _filter(gaps, seen.highest, knobs)
    if width is None:
        gaps, ids, kept = _widen(logits, seen.highest, gaps, ids, kept, knobs)
    gaps, ids = gaps[:, :width].masked_fill(~kept[:, :width], -torch.inf), ids[:, :width]
    total = gaps.logsumexp(-1, keepdim=True)
    return Kept(ids, gaps - total, seen.entropy, (total.squeeze(-1) + seen.highest).exp())


def entropies(logits: Tensor, temperature: Tensor) -> Tensor:
    """(N,) in nats, of softmax(logits / temperature); `logits` (N, V), `temperature` (N,)."""
    return _normalise(logits, logits.detach().argmax(-1, keepdim=True), temperature, True)[1]


def _survey(logits: Tensor, temperature: Tensor, heat: Tensor, look: int, knobs: Knobs) -> _Survey:
    """`temperature` and `heat` (N,) of these rows; of `knobs` the statics."""
    if logits.device.type == "cpu" and len(logits) > _ROWS:
        parts = zip(logits.split(_ROWS), temperature.split(_ROWS), heat.split(_ROWS), strict=True)
        each = [_survey(rows, own, at, look, knobs) for rows, own, at in parts]
        return _Survey._make(torch.cat(t) for t in zip(*each, strict=True))
    top, ids = largest(logits, look)
    together = knobs.entropic and not knobs.reheats
    highest = entropy = torch.full_like(top[:, 0], torch.nan)
    if knobs.weighs or together:
        highest, entropy = _normalise(logits, ids[:, :1], temperature, together)
    if knobs.entropic and knobs.reheats:
        entropy = _normalise(logits, ids[:, :1], heat, True)[1]
    return _Survey(top, ids, highest, entropy)


def _gaps(logits: Tensor, peak: Tensor, knobs: Knobs) -> Tensor:
    """(N, L): log-probs less that of a most likely token, whose logit is `peak` (N, 1)."""
    return (logits - peak) / knobs.temperature.to(logits.dtype)[:, None]


def _normalise(logits: Tensor, first: Tensor, temperature: Tensor, entropic: bool) -> tuple[Tensor, Tensor]:
    """(N,) each, of softmax(logits / temperature), `logits` (N, V): log-prob of the token `first` (N, 1), a
    most likely one; and the entropy if asked, else NaN."""
    inverse = temperature.to(logits.dtype).reciprocal()[:, None]
    if not entropic:
        highest = (logits * inverse).softmax(-1).gather(-1, first).squeeze(-1).log()
        return highest, torch.full_like(highest, torch.nan)
    gaps = (logits - logits.gather(-1, first)).mul_(inverse).clamp_(min=-1e9)  # finite: 0 · -inf is NaN
    probs = gaps.softmax(-1)
    highest = probs.gather(-1, first).squeeze(-1).log()
    return highest, -(probs * gaps).sum(-1) - highest


def _filter(gaps: Tensor, highest: Tensor, knobs: Knobs) -> Tensor:
    """(N, L) bool: which tokens pass all filters. `gaps` (N, L), largest first; `highest` (N,): log-prob of
    the first."""
    gaps = gaps.detach().double()
    rank = torch.arange(gaps.shape[-1], device=gaps.device)
    top_k, top_p = knobs.top_k[:, None], knobs.top_p[:, None]
    kept = (rank < top_k) | (top_k == 0)
    among = gaps.masked_fill(~kept, -torch.inf).logsumexp(-1, keepdim=True)
    probs = (gaps - torch.where(top_k > 0, among, -highest.detach().double()[:, None])).exp()
    before = probs.cumsum(-1) - probs
    kept &= (before < top_p) | (top_p >= 1)
    kept &= gaps >= knobs.min_p[:, None].log()
    return kept & (rank < knobs.cap[:, None])


def _widen(
    logits: Tensor, highest: Tensor, gaps: Tensor, ids: Tensor, kept: Tensor, knobs: Knobs
) -> tuple[Tensor, Tensor, Tensor]:
    """Gaps, ids and kept (N, K) of all tokens that pass, K as many as any row has, given those of the most
    likely ones (N, L)."""
    size, look = logits.shape[-1], gaps.shape[-1]
    count = kept.sum(-1)
    more = ((count == look) & (knobs.cap > look)).nonzero().squeeze(-1)
    if look >= size or not len(more):
        k = int(count.max()) if len(count) else 1
        return gaps[:, :k], ids[:, :k], kept[:, :k]
    rest, own = logits[more], knobs.take(more)
    if bool(((own.top_k == 0) & (own.top_p >= 1) & (own.min_p == 0) & (own.cap >= size)).all()):
        wide = _all(rest, gaps[more], ids[more], own)
    else:
        wider = look * _WIDER
        top, far_ids = largest(rest, wider if wider < size // _WIDER else size)
        far = _gaps(top, top[:, :1], own)
        wide = _widen(rest, highest[more], far, far_ids, _filter(far, highest[more], own), own)
    room = (0, wide[0].shape[1] - look)
    return (
        functional.pad(gaps, room).index_copy(0, more, wide[0]),
        functional.pad(ids, room).index_copy(0, more, wide[1]),
        functional.pad(kept, room).index_copy(0, more, wide[2]),
    )


def _all(logits: Tensor, gaps: Tensor, ids: Tensor, knobs: Knobs) -> tuple[Tensor, Tensor, Tensor]:
    """As `_widen` for rows without a filter: no sort; the most likely tokens first, then every token, in
    which those before do not count again."""
    n, size = logits.shape
    every = torch.arange(size, device=logits.device).expand(n, -1)
    rest = torch.ones_like(logits, dtype=torch.bool).scatter(-1, ids, False)
    peak = logits.gather(-1, ids[:, :1])
    return (
        torch.cat([gaps, _gaps(logits, peak, knobs)], -1),
        torch.cat([ids, every], -1),
        torch.cat([torch.ones_like(ids, dtype=torch.bool), rest], -1),
    )
