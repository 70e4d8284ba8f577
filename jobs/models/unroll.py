"""The forward pass of a training row with latent steps (Coconut, arXiv 2412.06769; Jacobi sweeps as in PCCoT,
arXiv 2506.18582)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from jobs.latent.inputs import push
from jobs.models.feed import Feed
from jobs.models.parts import Parts

Schedule = Literal["sequential", "jacobi"]


def unroll(
    parts: Parts,
    ids: Tensor,
    *,
    first: int,
    counts: Tensor,
    longest: int,
    feed: Feed,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    schedule: Schedule = "sequential",
    sweeps: int | None = None,
    opening: int = 1,
) -> Tensor:
    """Last hidden states (B, L, d) of rows whose latents stand in columns first .. first + counts[b] - 1.

    ids (B, L): what stands in the other columns. `longest` is max(counts), known on the host; a row may have
    none. Column first - 1 is the last token of the start marker in every row that has latents; the marker has
    `opening` tokens. mask (B, L): 1 on real columns; positions (B, L): counted from the mask if unsaid.
    """
    if positions is None:
        positions = _positions(ids, mask)
    x = parts.embed(ids)
    n = longest
    if n == 0:
        return parts.run(x, positions=positions, mask=mask)
    seen = torch.ones_like(ids) if mask is None else mask
    if feed.window == 0:
        latent = torch.arange(ids.shape[1], device=ids.device) - first
        latent = (latent >= 0) & (latent < counts[:, None])
        constant = feed(x.new_zeros(1, 0, x.shape[-1]))
        return parts.run(torch.where(latent[..., None], constant[:, None], x), positions=positions, mask=mask)
    question, *columns, rest = x.split([first, *[1] * n, ids.shape[1] - first - n], 1)
    cache = DynamicCache(config=parts.config)
    hidden = [parts.run(question, positions=positions[:, :first], mask=seen[:, :first], cache=cache)]
    window = _window(hidden[0], feed.window)
    valid = feed.visible(torch.arange(n, device=ids.device)[:, None], seen[:, :first].sum(1)[None], opening)
    for j in range(n):
        z = feed(window, None if valid is None else valid[j])
        column = torch.where((j < counts)[:, None, None], z[:, None], columns[j])
        if j + 1 == n:
            column = torch.cat([column, rest], 1)
        end = first + j + column.shape[1]
        h = parts.run(column, positions=positions[:, first + j : end], mask=seen[:, :end], cache=cache)
        hidden.append(h)
        window = push(window, h[:, 0])
    return torch.cat(hidden, 1)


def _positions(ids: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return (mask.long().cumsum(-1) - 1).clamp_(min=0)


def _window(hidden: Tensor, m: int) -> Tensor:
    """The last m columns of (B, T, d), newest first, zeros where there are fewer."""
    recent = hidden[:, -m:].flip(1) if m > 1 else hidden[:, -1:]
    missing = m - recent.shape[1]
    return torch.nn.functional.pad(recent, (0, 0, 0, missing)) if missing else recent
