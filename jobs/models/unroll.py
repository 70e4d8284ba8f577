"""The forward pass of training rows with latent steps: sequential (Coconut, arXiv 2412.06769) or in Jacobi
sweeps (PCCoT, arXiv 2506.18582)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from jobs.latent.inputs import push, windows
from jobs.models.feed import Feed
from jobs.models.masks import Masks
from jobs.models.parts import ATTENTION, Parts
from jobs.models.span_cache import SpanCache
from jobs.runtime.errors import JobUserError

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

    ids (B, L): what stands in the other columns. `longest`: max(counts) or more, known on the host; a row may
    have no latents. Column first - 1 is the last token of the start marker in every row that has latents; the
    marker has `opening` tokens. mask (B, L): 1 on real columns; positions (B, L): counted from the mask if
    unsaid.

    `sequential` runs the question, then one latent column after the other, the last one together with the
    rest: longest + 1 passes, every column once. `jacobi` runs the question, then `sweeps` times all latent
    columns at once, each time with the inputs that the sweep before gives (at first: the latent token's
    embedding; the first latent is exact from the start), the last time together with the rest: sweeps + 1
    passes; `longest` or more sweeps are the sequential pass. Gradients go through every pass. A feed that
    looks at no hidden state (`pause`) takes one pass.

    Raises JobUserError where the model's attention or gradient checkpointing stands in the way, and for
    Jacobi sweeps without a latent token.
    """
    if positions is None:
        positions = _positions(ids, mask)
    x = parts.embed(ids)
    if longest == 0:
        return parts.run(x, positions=positions, mask=mask)
    if feed.window == 0:
        column = torch.arange(ids.shape[1], device=ids.device) - first
        latent = (column >= 0) & (column < counts[:, None])
        constant = feed(x.new_empty(1, 0, x.shape[-1]))
        return parts.run(torch.where(latent[..., None], constant[:, None], x), positions=positions, mask=mask)
    check_training(parts)
    run = _Passes(parts, Masks(parts.config, mask, ids.shape[1], x), positions)
    steps = torch.arange(longest, device=ids.device)
    prompt = ids.new_full((len(ids),), first) if mask is None else mask[:, :first].sum(1)
    valid = feed.visible(steps, prompt[:, None], opening)  # (B, n, m)
    own = (steps < counts[:, None])[..., None]  # (B, n, 1): a latent, not text of a row with fewer
    question, under, rest = x.split([first, longest, ids.shape[1] - first - longest], 1)
    columns = (question, under, rest)
    if schedule == "jacobi":
        return _jacobi(run, columns, own, valid, feed, min(sweeps or longest, longest))
    return _sequential(run, columns, own, valid, feed)


def check_training(parts: Parts) -> None:
    """Raises JobUserError where `parts` cannot be trained with latent steps."""
    if parts.config._attn_implementation not in ATTENTION:
        raise JobUserError(
            f"latent steps cannot be trained with the attention {parts.config._attn_implementation}: "
            "it takes no mask per row",
            hint="set model.attention to sdpa",
            where="model.attention",
        )
    if parts.model.training and parts.model.is_gradient_checkpointing:
        raise JobUserError(
            "gradient checkpointing drops the keys and values that latent steps look back at",
            hint="set train.gradient_checkpointing to false; a smaller micro_batch saves memory too",
            where="train.gradient_checkpointing",
        )


class _Passes:
    """Forward passes over neighbouring columns of one batch."""

    def __init__(self, parts: Parts, masks: Masks, positions: Tensor) -> None:
        self.parts, self.masks, self.positions = parts, masks, positions

    def __call__(self, x: Tensor, start: int, cache: SpanCache) -> Tensor:
        """The columns from `start` on, inputs (B, T, d) -> hidden (B, T, d)."""
        end = start + x.shape[1]
        return self.parts.run(
            x, positions=self.positions[:, start:end], mask=self.masks(start, end), cache=cache
        )

    def step(self, x: Tensor, start: int, cache: SpanCache) -> Tensor:
        with cache.step(self.parts.config):
            return self(x, start, cache)


Columns = tuple[Tensor, Tensor, Tensor]
"""Embeddings of the question, of what stands in the latent columns of rows with fewer, and of the rest."""


def _sequential(run: _Passes, columns: Columns, own: Tensor, valid: Tensor | None, feed: Feed) -> Tensor:
    question, under, rest = columns
    first, n = question.shape[1], under.shape[1]
    cache = SpanCache(run.parts.layers, steps=n - 1)
    hidden = [run(question, 0, cache)]
    window = _window(hidden[0], feed.window)
    texts = under.split(1, 1)
    for j in range(n):
        z = feed(window, None if valid is None else valid[:, j])[:, None]
        x = torch.where(own[:, j : j + 1], z, texts[j])
        if j + 1 == n:
            hidden.append(run(torch.cat([x, rest], 1), first + j, cache))
        else:
            hidden.append(run.step(x, first + j, cache))
            window = push(window, hidden[-1][:, 0])
    return torch.cat(hidden, 1)


def _jacobi(
    run: _Passes, columns: Columns, own: Tensor, valid: Tensor | None, feed: Feed, sweeps: int
) -> Tensor:
    if feed.initial is None:
        raise JobUserError("Jacobi sweeps start from the latent token, and there is none")
    question, under, rest = columns
    first, (batch, n, width) = question.shape[1], under.shape
    cache = SpanCache(run.parts.layers, steps=sweeps - 1, columns=n, replace=True)
    before = run(question, 0, cache)
    window = _window(before, feed.window)
    z = feed(window, None if valid is None else valid[:, 0])[:, None]
    guess = feed.initial().expand(batch, n - 1, width)
    x = torch.where(own, torch.cat([z, guess], 1), under)
    later = None if valid is None else valid[:, 1:].flatten(0, 1)
    for _ in range(sweeps - 1):
        hidden = run.step(x, first, cache)
        seen = windows(hidden[:, :-1], window[:, :-1])  # (B · (n - 1), m, d)
        guess = feed(seen, later).view(batch, n - 1, width)
        x = torch.where(own, torch.cat([z, guess], 1), under)
    return torch.cat([before, run(torch.cat([x, rest], 1), first, cache)], 1)


def _positions(ids: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return (mask.long().cumsum(-1) - 1).clamp_(min=0)


def _window(hidden: Tensor, m: int) -> Tensor:
    """The last m columns of (B, T, d), newest first, zeros where there are fewer."""
    recent = hidden[:, -m:].flip(1) if m > 1 else hidden[:, -1:]
    missing = m - recent.shape[1]
    return torch.nn.functional.pad(recent, (0, 0, 0, missing)) if missing else recent
