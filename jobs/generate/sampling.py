"""Drawing one token per row from logits: greedy, or temperature, top-k, top-p, min-p (in this order) and
inverse CDF.

Each filter is a threshold on the value of a logit, so tokens that tie with the last one kept are kept too,
and the kept set does not depend on how equal values happen to be sorted. The cumulative sum runs in the
order of token ids, so that rounding near a tie cannot change which token a uniform number selects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from latentctl.spec.sampling import SamplingSpec

_BLOCK = 1024  # logits whose maximum is taken at once
_CACHED = 2**18  # logits whose log-sum-exp is taken at once: 1 MiB
_FIRST_K = 64  # candidates looked at before widening; a nucleus is rarely larger


class Knobs(NamedTuple):
    """Sampling settings of N rows as tensors (N,), and what the host knows of them."""

    greedy: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    sampled: bool
    """Any row is not greedy."""
    filtered: bool
    """Every sampled row has a filter, so that looking at the largest logits is worth while."""
    largest_k: int
    heat: Tensor | None
    """(N,) the temperature of log-probs; None: 1 for all."""

    @staticmethod
    def of(
        specs: Sequence[SamplingSpec], device: torch.device, tempered: Sequence[bool] | None = None
    ) -> Knobs:
        """`tempered`: whose log-probs are at the temperature of drawing; None: nobody's."""

        def column(values: list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        drawn = [s for s in specs if s.temperature > 0]
        heats = [
            s.temperature if own and s.temperature > 0 else 1.0
            for s, own in zip(specs, tempered or [False] * len(specs), strict=True)
        ]
        return Knobs(
            torch.tensor([s.temperature == 0 for s in specs], device=device),
            column([s.temperature or 1.0 for s in specs], torch.float32),
            column([s.top_k if s.temperature else 1 for s in specs], torch.int64),
            column([s.top_p for s in specs], torch.float64),
            column([s.min_p for s in specs], torch.float64),
            bool(drawn),
            all(s.top_k or s.top_p < 1 or s.min_p for s in drawn),
            max((s.top_k for s in specs), default=0),
            None if all(h == 1.0 for h in heats) else column(heats, torch.float32),
        )


def draw(
    logits: Tensor, knobs: Knobs, uniforms: Tensor | None, forced: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Tokens (N,) int64 and their log-probs (N,) float32 under softmax(logits) at temperature 1 (or at
    `knobs.heat`), before filters.

    `logits` (N, V) float32; `uniforms` (N,) float64 in (0, 1), None where every row is greedy; `forced`
    (N,) int64: a token to take instead, -1 for none.
    """
    tokens = argmax(logits)
    if knobs.sampled:
        if uniforms is None:
            raise ValueError("sampled rows need uniforms")
        scaled = logits / knobs.temperature[:, None]
        picked = _pick_filtered(scaled, knobs, uniforms) if knobs.filtered else _pick(scaled, knobs, uniforms)
        tokens = torch.where(knobs.greedy, tokens, picked)
    if forced is not None:
        tokens = torch.where(forced >= 0, forced, tokens)
    heated = logits if knobs.heat is None else logits / knobs.heat[:, None]
    return tokens, heated.gather(-1, tokens[:, None]).squeeze(-1) - log_norm(heated)


def argmax(logits: Tensor) -> Tensor:
    """`logits.argmax(-1)` of (N, V), the first of equal ones.

    On a CPU torch walks a row number by number, but takes maxima of blocks with vector instructions: so the
    first block that holds the row's maximum is found first, then the place in it.
    """
    size = logits.shape[1]
    blocks = size // _BLOCK
    if logits.device.type != "cpu" or blocks < 4:
        return logits.argmax(-1)
    body = blocks * _BLOCK
    maxima = logits[:, :body].unflatten(1, (blocks, _BLOCK)).amax(-1)
    if body < size:
        maxima = torch.cat([maxima, logits[:, body:].amax(-1, keepdim=True)], -1)
    start = (maxima.argmax(-1) * _BLOCK).clamp_(max=size - _BLOCK)  # the last block may reach back
    block = logits.gather(-1, start[:, None] + torch.arange(_BLOCK))
    return start + block.argmax(-1)


def log_norm(logits: Tensor) -> Tensor:
    """`logits.logsumexp(-1)` of (N, V); on a CPU in parts that stay in its cache."""
    if logits.device.type != "cpu" or logits.numel() <= _CACHED:
        return logits.logsumexp(-1)
    rows = max(1, _CACHED // logits.shape[1])
    return torch.cat([part.logsumexp(-1) for part in logits.split(rows)])


def _invert(mass: Tensor, uniforms: Tensor) -> Tensor:
    """First index (N,) at which the running sum of `mass` (N, K) exceeds u × total."""
    running = mass.cumsum(-1, dtype=torch.float64)
    total = running[:, -1]
    below = torch.nextafter(total, torch.zeros_like(total))  # u × total may round up to the total itself
    target = torch.minimum(uniforms * total, below)
    return torch.searchsorted(running, target[:, None], right=True).squeeze(-1).clamp_(max=mass.shape[1] - 1)


def _pick(scaled: Tensor, knobs: Knobs, uniforms: Tensor) -> Tensor:
    """Over the whole vocabulary: for rows without a filter (rows with one may stand among them)."""
    mass = (scaled - scaled.amax(-1, keepdim=True)).exp()
    if knobs.largest_k or bool((knobs.top_p < 1).any()) or bool((knobs.min_p > 0).any()):
        _, ids, kept = kept_tokens(scaled, knobs)
        keep = torch.zeros_like(scaled, dtype=torch.bool).scatter_(-1, ids, kept)
        mass = mass.masked_fill(~keep, 0.0)
    return _invert(mass, uniforms)


def _pick_filtered(scaled: Tensor, knobs: Knobs, uniforms: Tensor) -> Tensor:
    values, ids, kept = kept_tokens(scaled, knobs)
    ids, order = ids.sort(-1)
    mass = (values - values[:, :1]).exp().masked_fill(~kept, 0.0).gather(-1, order)
    return ids.gather(-1, _invert(mass, uniforms)[:, None]).squeeze(-1)


def kept_tokens(scaled: Tensor, knobs: Knobs) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens that pass the filters, among the K largest: values, ids, kept, each (N, K), values
    descending.

    K widens until every kept token of every row is among the K largest. `scaled` (N, V): logits over
    temperature.
    """
    size = scaled.shape[1]
    norm = scaled.logsumexp(-1, keepdim=True).double()
    width = min(size, max(_FIRST_K, knobs.largest_k + 1))
    while True:
        values, ids = scaled.topk(width, dim=-1)
        threshold = _threshold(values.double(), norm, knobs)
        if width == size or bool((values[:, -1:] < threshold).all()):
            return values, ids, values >= threshold
        width = min(size, width * 8)


def _threshold(values: Tensor, norm: Tensor, knobs: Knobs) -> Tensor:
    """Least value kept (N, 1), given the largest values (N, K), descending, and the log-sum-exp of all
    (N, 1)."""
    ranked = knobs.top_k.clamp(max=values.shape[1])[:, None]
    kth = values.gather(-1, (ranked - 1).clamp(min=0)).masked_fill(ranked == 0, -torch.inf)
    in_k = values >= kth
    norm = torch.where(ranked > 0, values.masked_fill(~in_k, -torch.inf).logsumexp(-1, keepdim=True), norm)
    probs = (values - norm).exp().masked_fill(~in_k, 0.0)
    before = probs.cumsum(-1) - probs
    in_p = (before < knobs.top_p[:, None]) & in_k
    nucleus = values.masked_fill(~in_p, torch.inf).amin(-1, keepdim=True)
    pth = torch.where(knobs.top_p[:, None] < 1, nucleus, kth)
    least = values[:, :1] + knobs.min_p.log()[:, None]
    return torch.maximum(torch.maximum(kth, pth), least)
