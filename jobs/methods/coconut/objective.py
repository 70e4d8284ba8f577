"""Coconut's loss: one unrolled forward in which hidden states stand in for text steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from jobs.data.curriculum import Curriculum
from jobs.methods.coconut.layout import GO_ON, IGNORED, Laid, Layout, Row
from jobs.models.feed import make_feed
from jobs.models.parts import Parts
from jobs.models.unroll import unroll
from jobs.train.objective import Batch, Item, Outcome
from jobs.train.text import supervised
from latentctl.spec.latent import ContextualInput, LatentInput


class WindowWeights(nn.Module):
    """The parameter behind `weights: learned`. A module of its own: calling it is what gathers it under
    ZeRO-3."""

    def __init__(self, window: int, start: Sequence[float] | None) -> None:
        """`start`: weights to begin with; equal ones if None."""
        super().__init__()
        shares = torch.tensor(start) if start else torch.full((window,), 1 / window)
        self.logits = nn.Parameter(shares.clamp(min=1e-8).log())

    def forward(self) -> torch.Tensor:
        """(m,): the weights are its softmax."""
        return self.logits * 1.0  # a tensor that outlives the gathering


class CoconutObjective(nn.Module):
    """Cross-entropy summed over the remaining text (and, where the model learns to end the span, over the
    span); `accuracy` is the share of these positions at which greedy decoding would do the right thing."""

    metrics: tuple[str, ...] = ("accuracy",)

    def __init__(
        self,
        curriculum: Curriculum,
        layout: Layout,
        input: LatentInput,
        *,
        pad: int,
        max_len: int,
        seed: int,
        learned: Sequence[float] | None = None,
        longest: int | None = None,
    ) -> None:
        """`pad`: id that fills up. `seed`: of the drawn stages. `learned`: where learned window weights
        begin. `longest`: latent steps of every forward, whatever its rows need: where all ranks must run the
        model equally often (ZeRO-3)."""
        super().__init__()
        self.curriculum, self.layout, self.input = curriculum, layout, input
        self.pad, self.max_len, self.seed, self.longest = pad, max_len, seed, longest
        self.learned: WindowWeights | None = None
        if isinstance(input, ContextualInput) and input.weights == "learned":
            self.learned = WindowWeights(input.window, learned)

    def collate(self, items: Sequence[Item]) -> Batch:
        """Rows are moved to the right until all first latent positions stand in one column. Positions count
        from a row's own first token; there is a mask only where something stands left of it."""
        laid = [self._lay(item) for item in items] or [Laid([self.pad], [IGNORED], 0, 0)]
        first = max((row.first for row in laid if row.latents), default=1)
        longest = max(row.latents for row in laid) if self.longest is None else self.longest
        shifts = [first - row.first if row.latents else 0 for row in laid]
        width = max(shift + len(row.ids) for shift, row in zip(shifts, laid, strict=True))
        width = max(width, first + longest + 1) if longest else width
        ids = torch.full((len(laid), width), self.pad)
        targets = torch.full((len(laid), width), IGNORED)
        positions = torch.zeros((len(laid), width), dtype=torch.long)
        mask = torch.ones((len(laid), width), dtype=torch.long)
        for b, (shift, row) in enumerate(zip(shifts, laid, strict=True)):
            end = shift + len(row.ids)
            ids[b, shift:end] = torch.tensor(row.ids)
            targets[b, shift:end] = torch.tensor(row.targets)
            positions[b, shift:end] = torch.arange(end - shift)
            mask[b, :shift] = 0
        counts = torch.tensor([row.latents for row in laid])
        tensors = {"ids": ids, "counts": counts, "first": first, "longest": longest, **supervised(targets)}
        if any(shifts) or width > self.max_len:
            tensors |= {"mask": mask, "positions": positions}
        if self.layout.dynamic:
            tensors["going"] = (tensors["targets"] == GO_ON).any(0).nonzero().squeeze(1)
        weight = float((targets != IGNORED).sum())
        tokens = sum(len(row.ids) for row in laid) if items else 0
        return Batch(tensors, weight=weight, tokens=tokens, rows=len(items))

    def loss(self, model: Any, tensors: dict[str, Any], *, measure: bool) -> Outcome:
        """The head runs only on columns in which some row learns something."""
        parts = Parts(model)
        learned = None if self.learned is None else self.learned()
        logits = parts.head(self._unrolled(parts, learned, tensors)[:, tensors["columns"]]).float()
        targets = tensors["targets"]
        total = F.cross_entropy(
            logits.flatten(0, 1), targets.clamp(min=IGNORED).flatten(), ignore_index=IGNORED, reduction="sum"
        )
        right = (logits.argmax(-1) == targets).sum() if measure else None
        if "going" in tensors:
            going = logits[:, tensors["going"]]
            inside = targets[:, tensors["going"]] == GO_ON
            total = total + self._staying(going).masked_fill(~inside, 0.0).sum()
            if right is not None:
                right = right + (inside & (going.argmax(-1) != self._end)).sum()
        if learned is not None:
            total = total + 0.0 * learned.sum()  # also where no row has latents: all ranks reduce the same
        return Outcome(total, {} if right is None else {"accuracy": right})

    def _lay(self, item: Item) -> Laid:
        row: Row = item.row
        steps = len(row.steps)
        stage = self.curriculum.stage
        if row.drawn:
            stage = self.curriculum.draw(steps, place=item.place, seed=self.seed)
        laid = self.layout.lay(row, self.curriculum.train(steps, stage=stage, asked=row.asked))
        if len(laid.ids) <= self.max_len:
            return laid
        return laid._replace(
            ids=laid.ids[: self.max_len], targets=[*laid.targets[: self.max_len - 1], IGNORED]
        )

    def _unrolled(self, parts: Parts, learned: torch.Tensor | None, tensors: dict[str, Any]) -> torch.Tensor:
        """Last hidden states (B, L, d)."""
        span, settings = self.layout.span, self.curriculum.settings
        return unroll(
            parts,
            tensors["ids"],
            first=tensors["first"],
            counts=tensors["counts"],
            longest=tensors["longest"],
            feed=make_feed(self.input, parts, token=span.token if span else None, learned=learned),
            mask=tensors.get("mask"),
            positions=tensors.get("positions"),
            schedule=settings.schedule,
            sweeps=settings.sweeps,
            opening=len(span.start) if span else 1,
        )

    @property
    def _end(self) -> int:
        """The token that ends a span, or begins to."""
        assert self.layout.span is not None
        return self.layout.span.end[0]

    def _staying(self, logits: torch.Tensor) -> torch.Tensor:
        """(..., V) -> (...): -log(1 - p) of the end token: the loss of going on with the span.

        What else is likely there stays free: a soft input goes on to mix it, and a trace to show it.
        """
        others = logits.index_fill(-1, torch.tensor([self._end], device=logits.device), -torch.inf)
        return F.softplus(logits[..., self._end] - others.logsumexp(-1))
