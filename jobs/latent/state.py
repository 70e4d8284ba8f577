"""Where each row stands: all that survives from one step to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from jobs.latent.knobs import FROM_START, LATENT, LATENT_ONLY, TEXT, Knobs


class State(NamedTuple):
    """Of N rows; int64 (N,) unless said otherwise."""

    phase: Tensor
    """TEXT, LATENT or CLOSING."""
    steps: Tensor
    """Latent steps taken in this span."""
    total: Tensor
    """Latent steps taken in all spans: the counter of the noise."""
    noised: Tensor
    """Of these, the disturbed ones."""
    low: Tensor
    """Steps in a row with a low entropy."""
    pending: Tensor
    """Tokens of the end marker that were forced."""
    matched: Tensor
    """Tokens of the start marker that the text ends with."""
    valid: Tensor
    """So many states of the window may be looked at."""
    window: Tensor
    """(N, m, d) the last hidden states, newest first."""

    @staticmethod
    def start(knobs: Knobs, before: Tensor, count: Tensor) -> State:
        """Rows whose prompt was computed and whose first `step` looks at its last position.

        `before` (N, p, d): hidden states of the positions before that last one, newest first, p at least
        m - 1 where the prompt has as many; `count` (N,): how many of them are the row's own.
        """
        n, p, _ = before.shape
        phase = torch.where(knobs.waits, TEXT, LATENT)
        window = functional.pad(before[:, : knobs.window], (0, 0, 0, max(0, knobs.window - p)))
        zero = torch.zeros(n, dtype=torch.int64, device=before.device)
        state = State(phase, zero, zero, zero, zero, zero, zero, count.clamp(max=window.shape[1]), window)
        seen = _looks_back(state.valid, knobs)
        return state._replace(valid=torch.where(knobs.waits, state.valid, seen))

    def take(self, index: Tensor) -> State:
        """The rows `index` (int64), in that order."""
        return State._make(t[index] for t in self)

    @staticmethod
    def join(states: Sequence[State]) -> State:
        """The rows of all, in that order; windows of different lengths grow to the longest."""
        m = max(s.window.shape[1] for s in states)
        wide = [functional.pad(s.window, (0, 0, 0, m - s.window.shape[1])) for s in states]
        flat = [torch.cat(parts) for parts in zip(*(s[:-1] for s in states), strict=True)]
        return State._make([*flat, torch.cat(wide)])


def _looks_back(valid: Tensor, knobs: Knobs) -> Tensor:
    """How many states before a start marker's last token the span's first step may look at."""
    marker = torch.minimum(valid, (knobs.marker - 1).clamp(min=0))
    seen = torch.where(knobs.include == LATENT_ONLY, torch.zeros_like(valid), valid)
    return torch.where(knobs.include == FROM_START, marker, seen)


def observe(token: Tensor, state: State, knobs: Knobs) -> State:
    """After `token` (N,) was put down as text: a row of `start: model` that now ends with the whole start
    marker is LATENT, and its next `step` looks at the marker's last token.

    Matching is exact for markers that overlap themselves. A marker counts as written where its own token
    ids stand: other ids that spell the same text are not seen. Rows in another phase, and negative tokens,
    change nothing.
    """
    if knobs.start.shape[1] == 0:
        return state
    listens = knobs.waits & (state.phase == TEXT) & (token >= 0)
    matched = state.matched
    for _ in range(knobs.start.shape[1]):
        here = knobs.start.gather(1, matched[:, None]).squeeze(1)
        back = knobs.fallback.gather(1, matched[:, None]).squeeze(1)
        matched = torch.where(here == token, matched, back)
    here = knobs.start.gather(1, matched[:, None]).squeeze(1)
    matched = matched + (here == token).long()
    begins = listens & (matched == knobs.start_len)
    return begin(state._replace(matched=torch.where(listens, matched, state.matched)), begins, knobs)


def begin(state: State, begins: Tensor, knobs: Knobs) -> State:
    """A span begins in the rows `begins` (N,) bool: their text now ends with the start marker."""
    return state._replace(
        phase=state.phase.masked_fill(begins, LATENT),
        steps=state.steps.masked_fill(begins, 0),
        low=state.low.masked_fill(begins, 0),
        matched=state.matched.masked_fill(begins, 0),
        valid=torch.where(begins, _looks_back(state.valid, knobs), state.valid),
    )
