"""What is fed at a latent position: a mixture of embeddings, or of the last hidden states."""

from __future__ import annotations

import torch
from torch import Tensor

from latentctl.spec.latent import ContextualInput

_GATHERED = 1024
"""Beyond so many tokens a product with the whole embedding is cheaper than looking up its rows."""
_BLOCK = 16384
"""Rows of the embedding that are held in float32 at a time."""


def soft(weights: Tensor, ids: Tensor, embedding: Tensor) -> Tensor:
    """(N, d): the sum of the rows `ids` (N, K) of the input embedding (V, d), weighted by `weights` (N, K).

    Accumulated in float32 at least, then in the embedding's dtype. Differentiable in weights and embedding.
    """
    wide = torch.promote_types(embedding.dtype, torch.float32)
    weights = weights.to(wide)
    if ids.shape[-1] > _GATHERED:
        dense = weights.new_zeros(len(ids), len(embedding)).scatter_add(-1, ids, weights)
        blocks = zip(dense.split(_BLOCK, -1), embedding.split(_BLOCK), strict=True)
        return sum((w @ e.to(wide) for w, e in blocks), weights.new_zeros(())).to(embedding.dtype)
    rows = embedding[ids].to(wide)
    return torch.bmm(weights[:, None], rows).squeeze(1).to(embedding.dtype)


def window_weights(spec: ContextualInput, learned: Tensor | None = None) -> Tensor:
    """(m,) float32, newest first, sum 1; with `compat` the first weight falls on the oldest state.

    `learned` (m,): the parameter of `weights: learned`, whose softmax they are (differentiable). Raises
    ValueError where it is missing.
    """
    if spec.weights == "learned":
        if learned is None:
            raise ValueError("learned window weights come from training: give the parameter, or their list")
        return learned.softmax(-1)
    if isinstance(spec.weights, list):
        raw = torch.tensor(spec.weights, dtype=torch.float64)
    else:
        ratio = spec.decay if spec.weights == "exponential" else 1.0
        raw = torch.tensor(ratio, dtype=torch.float64) ** torch.arange(spec.window)
    weights = (raw / raw.sum()).float()
    return weights.flip(0) if spec.compat else weights


def contextual(
    window: Tensor, weights: Tensor, valid: Tensor | None = None, rescale: bool | Tensor = False
) -> Tensor:
    """(N, d): the weighted mean of the states of `window` (N, m, d), newest first.

    `weights` (m,) or (N, m) are renormalised over the `valid` (N, m) ones, of which the newest must be one.
    `rescale`: to the norm of the newest state; True, or (N,) for some rows. A window of 1 gives the newest
    state itself, bit for bit. Accumulated in float32 at least. Differentiable in window and weights.
    """
    wide = torch.promote_types(window.dtype, torch.float32)
    states = window.to(wide)
    share = weights.to(wide).expand(window.shape[:2])
    if valid is not None:
        share = share.masked_fill(~valid, 0.0)
        states = states.masked_fill(~valid[..., None], 0.0)
    newest = torch.zeros_like(share)
    newest[:, 0] = 1.0  # where every state that may be seen has weight 0
    total = share.sum(-1, keepdim=True)
    share = torch.where(total > 0, share / total.masked_fill(total <= 0, 1.0), newest)
    mean = torch.bmm(share[:, None], states).squeeze(1)
    if rescale is not False:
        short = mean.norm(dim=-1, keepdim=True)
        factor = states[:, 0].norm(dim=-1, keepdim=True) / short.masked_fill(short == 0, 1.0)
        scaled = mean * factor
        mean = scaled if rescale is True else torch.where(rescale[:, None], scaled, mean)
    return mean.to(window.dtype)


def visible(spec: ContextualInput, step: Tensor, prompt: Tensor, start: int) -> Tensor:
    """(..., m) bool: which states of its window the latent step number `step` (..., from 0) may look at.

    `prompt` (...): positions before the first latent step, the start marker's `start` tokens among them.
    """
    if spec.include == "latent_only":
        before = torch.ones_like(prompt)
    elif spec.include == "from_start_marker":
        before = prompt.clamp(max=max(start, 1))
    else:
        before = prompt
    count = before + step
    if spec.compat:
        count = torch.where(step > 0, torch.ones_like(count), count)
    return torch.arange(spec.window, device=count.device) < count[..., None]


def push(window: Tensor, hidden: Tensor, where: Tensor | None = None) -> Tensor:
    """`window` (N, m, d) with `hidden` (N, d) as its newest state, in the rows `where` (N,) or all."""
    if window.shape[1] == 0:
        return window
    moved = torch.cat([hidden[:, None].to(window.dtype), window[:, :-1]], 1)
    return moved if where is None else torch.where(where[:, None, None], moved, window)


def windows(hidden: Tensor, carry: Tensor) -> Tensor:
    """(B·n, m, d): the window after each of n positions, as pushing `hidden` (B, n, d) one by one onto the
    m - 1 states `carry` (B, m - 1, d), newest first, gives it."""
    batch, n, width = hidden.shape
    m = carry.shape[1] + 1
    line = torch.cat([carry.flip(1), hidden], 1)  # in the order of time
    return line.unfold(1, m, 1).flip(-1).transpose(-1, -2).reshape(batch * n, m, width)
