"""One decoding step of rows with latent settings: does the span end here, and if not, what is fed next."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from jobs.latent.inputs import contextual, push, soft
from jobs.latent.kept import Kept, entropies, keep
from jobs.latent.knobs import (
    CAUSES,
    CLOSING,
    CONTEXTUAL,
    GAUSSIAN,
    GAUSSIAN_LOGITS,
    LATENT,
    PAUSE,
    QUIET,
    SOFT,
    TEXT,
    Knobs,
)
from jobs.latent.perturb import ON_WEIGHTS, Gaussian, GaussianLogits
from jobs.latent.state import State

_FIXED, _END_MARKER, _ENTROPY, _MAX_LEN = (
    CAUSES.index(c) for c in ("fixed", "end_marker", "entropy", "max_len")
)


class Draw(NamedTuple):
    """What a latent step was made of: the row of a trace, and what a replay needs."""

    entropy: Tensor
    """(N,) in nats; NaN where no row asks for it."""
    ids: Tensor
    """(N, K) tokens, largest weight first."""
    weights: Tensor
    """(N, K) with which they were mixed (`soft`), else their probabilities."""
    mass: Tensor
    """(N,) probability of the mixed tokens before filters; 1 where none were mixed."""
    noised: Tensor
    """(N,) bool"""
    sigma: Tensor
    """(N,) standard deviation of Gaussian noise, else 0."""
    kind: Tensor
    """(N,) int64: which noise fell on it; that of a floor is `GAUSSIAN`."""
    kept: Tensor
    """(N, K) bool: which of `ids` the filters left, also those that came out with no weight. Empty unless
    some row records."""
    x: Tensor
    """(N, K) what was drawn (`perturb.Drawn.x`). Empty unless some row records."""


class Step(NamedTuple):
    """What a step decided for N rows."""

    latent: Tensor
    """(N,) bool: the next position is a latent step."""
    x: Tensor
    """(N, d) what it is fed, in the embedding's dtype; anything where `latent` is false."""
    token: Tensor
    """(N,) int64: the token of the end marker that comes next, -1: none is forced."""
    cause: Tensor
    """(N,) int64: index in CAUSES of why the span ended at this step, 0: it did not."""
    thought: Draw
    """Of the next position; anything where `latent` is false."""
    state: State


Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(weights (N, K), ids (N, K), embedding) -> (N, d), as `jobs.latent.inputs.soft`."""


def step(
    logits: Tensor | None, hidden: Tensor, state: State, knobs: Knobs, embedding: Tensor, mix: Mix = soft
) -> Step:
    """Take the position just computed, whose `logits` (N, V) and `hidden` (N, d) these are.

    A LATENT row ends its span or goes on; a CLOSING row forces the next token of its end marker; a TEXT row
    only remembers its hidden state. Of several rules that fire at once the cause is the first of fixed,
    end_marker, entropy, max_len. `logits` may be None unless `knobs.reads`; `embedding` (V, d) is the input
    embedding, or what an engine whose embedding lies in pieces hands to its own `mix`. Rows do not see one
    another, and no value is looked at on the host (`knobs.width` None aside).
    """
    state = state._replace(
        window=push(state.window, hidden),
        valid=(state.valid + 1).clamp(max=max(1, state.window.shape[1])),
    )
    if knobs.reads and logits is None:
        raise ValueError("these latent settings read logits")
    kept = keep(logits, knobs, knobs.width) if knobs.keeps and logits is not None else _nothing(state)
    entropy, first = kept.entropy, None
    if logits is not None and not knobs.keeps and knobs.entropic:
        entropy = entropies(logits, knobs.heat)
    opens = _gate(entropy, state, knobs)
    weights, ids, mass, sigma, there, drawn = _weights(logits, kept, state, knobs, opens)
    if knobs.ends and logits is not None:
        first = ids[:, 0] if knobs.keeps else logits.argmax(-1)

    cause, low = _cause(entropy, first, state, knobs)
    latent = (state.phase == LATENT) & (cause == 0)
    x = _input(hidden, ids, weights, state, knobs, embedding, mix)
    kind = torch.where(opens, knobs.noise, QUIET)
    disturbed = latent & (kind != QUIET)
    if knobs.floors:
        kind = torch.where((kind == QUIET) & (knobs.floor > 0), GAUSSIAN, kind)
    if GAUSSIAN in knobs.noises or knobs.floors:
        falls = kind == GAUSSIAN
        spread = Gaussian.sigma(x.float(), knobs)
        if knobs.floors:
            own = (opens & (knobs.noise == GAUSSIAN))[:, None]
            spread = torch.where(own, spread, Gaussian.floor(x.float(), knobs))
        noisy = Gaussian.draw(x, spread, knobs, state.total).to(x.dtype)
        x = torch.where(falls[:, None], noisy, x)
        sigma = torch.where(falls, spread.squeeze(-1), sigma)
    thought = Draw(entropy, ids, weights, mass, disturbed, sigma, kind, there, drawn)
    token, state = _advance(cause, latent, disturbed, low, state, knobs)
    return Step(latent, x, token, cause, thought, state)


def _nothing(state: State) -> Kept:
    """No token was looked at."""
    n = len(state.phase)
    empty = torch.empty(n, 0, device=state.phase.device)
    nan = torch.full((n,), torch.nan, device=state.phase.device)
    return Kept(empty.long(), empty, nan, torch.ones_like(nan))


def _gate(entropy: Tensor, state: State, knobs: Knobs) -> Tensor:
    """(N,) bool: noise may fall on the next latent step, by its entropy and by the budget."""
    high = (knobs.gate == -torch.inf) | (entropy > knobs.gate)
    return high & (state.noised < knobs.ratio * (state.total + 1))


def _weights(
    logits: Tensor | None, kept: Kept, state: State, knobs: Knobs, opens: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Weights and ids (N, K), mass and sigma (N,), kept set and what was drawn (N, K), after noise on the
    weights where it `opens` (N,)."""
    logw, ids = kept.logp, kept.ids
    sigma = torch.zeros_like(kept.mass)
    there, x = kept.logp > -torch.inf, kept.logp
    for kind in sorted(knobs.noises & set(ON_WEIGHTS)):
        assert logits is not None
        raw = logits.gather(-1, kept.ids)
        falls = (knobs.noise == kind) & opens
        drawn = ON_WEIGHTS[kind].draw(kept, raw, knobs, state.total)
        logw = torch.where(falls[:, None], drawn.logw, logw)
        if knobs.records:
            there = torch.where(falls[:, None], drawn.kept, there)
            x = torch.where(falls[:, None], drawn.x, x)
        if kind == GAUSSIAN_LOGITS:
            sigma = torch.where(falls, GaussianLogits.sigma(kept, raw, knobs).squeeze(-1), sigma)
    if knobs.noises & set(ON_WEIGHTS):
        logw, order = logw.sort(dim=-1, descending=True, stable=True)
        ids = ids.gather(-1, order)
        if knobs.records:
            there, x = there.gather(-1, order), x.gather(-1, order)
    if not knobs.records:
        there, x = there[:, :0], x[:, :0]
    mixes = knobs.kind == SOFT
    weights = logw.exp() * torch.where(mixes, torch.ones_like(kept.mass), kept.mass)[:, None]
    return weights, ids, torch.where(mixes, kept.mass, torch.ones_like(kept.mass)), sigma, there, x


def _cause(entropy: Tensor, first: Tensor | None, state: State, knobs: Knobs) -> tuple[Tensor, Tensor]:
    """Why the span ends here (N,), 0 if it does not, and the run of low entropies (N,)."""
    low = torch.where(entropy < knobs.threshold, state.low + 1, torch.zeros_like(state.low))
    cause = torch.where(state.steps >= knobs.max_len, _MAX_LEN, 0)
    if knobs.entropic:
        cause = cause.masked_fill((low >= knobs.patience) & (knobs.threshold > 0), _ENTROPY)
    if first is not None:
        cause = cause.masked_fill(knobs.end_rule & (first == knobs.end[:, 0]), _END_MARKER)
    cause = cause.masked_fill((knobs.fixed >= 0) & (state.steps >= knobs.fixed), _FIXED)
    return cause.masked_fill(state.phase != LATENT, 0), low


def _input(
    hidden: Tensor,
    ids: Tensor,
    weights: Tensor,
    state: State,
    knobs: Knobs,
    embedding: Tensor,
    mix: Mix,
) -> Tensor:
    """What each row would be fed (N, d), before noise."""
    x: Tensor | None = None
    for kind in sorted(knobs.kinds):
        if kind == SOFT:
            own = mix(weights, ids, embedding)
        elif kind == CONTEXTUAL:
            own = _window_mean(state, knobs)
        elif kind == PAUSE:
            own = mix(torch.ones_like(knobs.temperature)[:, None], knobs.token[:, None], embedding)
        else:
            own = hidden
        own = own.to(embedding.dtype)
        x = own if x is None else torch.where((knobs.kind == kind)[:, None], own, x)
    return hidden if x is None else x


def _window_mean(state: State, knobs: Knobs) -> Tensor:
    m = knobs.window
    count = torch.where(knobs.compat & (state.steps > 0), torch.ones_like(state.valid), state.valid)
    valid = torch.arange(m, device=count.device) < count[:, None]
    return contextual(state.window[:, :m], knobs.weights, valid, knobs.rescale)


def _advance(
    cause: Tensor, latent: Tensor, disturbed: Tensor, low: Tensor, state: State, knobs: Knobs
) -> tuple[Tensor, State]:
    """The forced token (N,), -1 if none, and the state after this step."""
    ended = cause > 0
    forced = ended | (state.phase == CLOSING)
    place = state.pending.masked_fill(ended, 0)
    token = knobs.end.gather(1, place[:, None]).squeeze(1).masked_fill(~forced, -1)
    after = torch.where(place + 1 < knobs.end_len, CLOSING, TEXT)
    return token, state._replace(
        phase=torch.where(forced, after, state.phase),
        steps=state.steps + latent.long(),
        total=state.total + latent.long(),
        noised=state.noised + disturbed.long(),
        low=torch.where(latent, low, torch.zeros_like(low)),
        pending=torch.where(forced & (after == CLOSING), place + 1, torch.zeros_like(place)),
    )
