"""What a latent step feeds into the next position, as a function of the hidden states before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.latent.inputs import contextual, visible, window_weights
from jobs.latent.kept import keep
from jobs.latent.knobs import Knobs, Row
from jobs.models.parts import Parts
from jobs.runtime.errors import JobUserError
from latentctl.spec.latent import ContextualInput, LatentInput, LatentSpec, SoftInput, StopSpec


@dataclass(frozen=True)
class Feed:
    """One input kind with its settings, differentiable."""

    give: Callable[[Tensor, Tensor | None], Tensor]
    window: int
    """m: so many hidden states are looked at; 0: none, the input is known before any pass."""
    spec: ContextualInput | None = None
    """Of a window."""
    initial: Callable[[], Tensor] | None = None
    """The latent token's embedding (d): where Jacobi sweeps start."""

    def visible(self, step: Tensor, prompt: Tensor, opening: int) -> Tensor | None:
        """Which states of its window each latent step may look at (..., m), None where the window is one
        state.

        `step` (...): its number from 0; `prompt` (...): real positions before the first, `opening` of them
        the start marker's.
        """
        return None if self.spec is None or self.window == 1 else visible(self.spec, step, prompt, opening)

    def __call__(self, window: Tensor, valid: Tensor | None = None) -> Tensor:
        """Hidden states (N, m, d), newest first, and which of them count (N, m) -> inputs (N, d)."""
        return self.give(window, valid)


def make_feed(
    input: LatentInput, parts: Parts, *, token: int | None = None, learned: Tensor | None = None
) -> Feed:
    """The feed of a latent input. `token` is the latent token, `learned` (m,) the parameter behind
    `weights: learned`.

    Raises JobUserError where the kind needs one of them and there is none.
    """
    initial = None if token is None else lambda: _row(parts, token)
    if input.kind == "hidden":
        return Feed(lambda window, valid: window[:, 0], 1, initial=initial)
    if input.kind == "pause":
        if initial is None:
            raise JobUserError("the input pause feeds the latent token, and there is none")
        return Feed(lambda window, valid: initial().expand(window.shape[0], -1), 0, initial=initial)
    if input.kind == "contextual":
        return _contextual(input, learned, initial)
    if input.kind == "soft":
        return _soft(input, parts, initial)
    raise JobUserError(f"the input {input.kind} has no latent steps to train")


def _soft(input: SoftInput, parts: Parts, initial: Callable[[], Tensor] | None) -> Feed:
    """The mean embedding of the tokens that the head finds likely at the state before. The embeddings are
    looked up, not multiplied as a matrix: that is what gathers them under ZeRO-3."""
    spec = LatentSpec(input=input, start="prompt", stop=StopSpec(fixed=0))
    one = Knobs.of([Row(spec, end=(0,), fixed=0)], parts.embedding.device)

    def give(window: Tensor, valid: Tensor | None) -> Tensor:
        hidden = window[:, 0]
        logits = parts.head(hidden)
        wide = torch.promote_types(logits.dtype, torch.float32)
        knobs = one.take(torch.zeros(len(hidden), dtype=torch.long, device=hidden.device))
        kept = keep(logits.to(wide), knobs, knobs.width)
        rows = parts.embed(kept.ids)
        return torch.bmm(kept.logp.exp()[:, None], rows.to(wide)).squeeze(1).to(rows.dtype)

    return Feed(give, 1, initial=initial)


def _contextual(input: ContextualInput, learned: Tensor | None, initial: Callable[[], Tensor] | None) -> Feed:
    if input.weights == "learned" and learned is None:
        raise JobUserError("contextual weights are to be learned, and no parameter was given for them")

    def give(window: Tensor, valid: Tensor | None) -> Tensor:
        weights = window_weights(input, learned).to(window.device)
        return contextual(window, weights, valid, input.rescale)

    return Feed(give, input.window, input, initial)


def _row(parts: Parts, token: int) -> Tensor:
    return parts.embed(torch.tensor(token, device=parts.embedding.device))
