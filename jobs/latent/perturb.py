"""Noise on a latent step, as distributions.

Each namespace draws from its distribution; its density (`log_prob`) belongs beside the drawing. A draw is a
function of the row's key, of how many latent steps its sample took before, and of the token (or dimension)
that the noise falls on: never of the neighbours, of the order of tokens, or of how many are kept.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from jobs.latent.kept import Kept
from jobs.latent.knobs import CONCRETE, DIRICHLET, GAUSSIAN_LOGITS, MULTIPLEX, Knobs
from jobs.latent.noise import gumbel, loggamma, normal, uniform


class OnWeights(Protocol):
    """Noise on the weights of the kept tokens."""

    @staticmethod
    def draw(kept: Kept, logits: Tensor, knobs: Knobs, steps: Tensor) -> Tensor:
        """Log-weights (N, K), -inf: no weight. `logits` (N, K): of the kept tokens, as the model gave them;
        `steps` (N,) int64: latent steps that the sample took before. Rows of other noises hold anything."""
        ...


def _strength(knobs: Knobs, kind: int, dtype: torch.dtype) -> Tensor:
    """(N, 1); 1 in rows of other kinds, so that nothing is divided by another kind's 0."""
    return knobs.strength.masked_fill(knobs.noise != kind, 1.0)[:, None].to(dtype)


class Gaussian:
    """Normal noise on what is fed: z = x + sigma · eps, eps ~ N(0, I) (arXiv 2509.19170)."""

    @staticmethod
    def sigma(x: Tensor, knobs: Knobs) -> Tensor:
        """(N, 1): strength, times the RMS of `x` (N, d) unless absolute."""
        rms = x.square().mean(-1, keepdim=True).sqrt()
        return knobs.strength[:, None] * torch.where(knobs.absolute[:, None], torch.ones_like(rms), rms)

    @staticmethod
    def draw(x: Tensor, sigma: Tensor, knobs: Knobs, steps: Tensor) -> Tensor:
        """(N, d) float32."""
        lanes = torch.arange(x.shape[-1], device=x.device)
        return x.float() + sigma * normal(knobs.key, steps, lanes).to(sigma.dtype)


class GaussianLogits:
    """Normal noise on the kept logits, before the temperature."""

    @staticmethod
    def sigma(kept: Kept, logits: Tensor, knobs: Knobs) -> Tensor:
        """(N, 1): strength, times the RMS of the kept logits unless absolute."""
        there = kept.logp > -torch.inf
        squares = logits.masked_fill(~there, 0.0).square().sum(-1, keepdim=True)
        rms = (squares / there.sum(-1, keepdim=True)).sqrt()
        return knobs.strength[:, None] * torch.where(knobs.absolute[:, None], torch.ones_like(rms), rms)

    @staticmethod
    def draw(kept: Kept, logits: Tensor, knobs: Knobs, steps: Tensor) -> Tensor:
        sigma = GaussianLogits.sigma(kept, logits, knobs)
        eps = normal(knobs.key, steps, kept.ids).to(logits.dtype)
        return (kept.logp + sigma * eps / knobs.temperature[:, None].to(logits.dtype)).log_softmax(-1)


class Concrete:
    """Weights softmax((log p + Gumbel) / tau) (Maddison et al. 2017; Jang et al. 2017)."""

    @staticmethod
    def draw(kept: Kept, logits: Tensor, knobs: Knobs, steps: Tensor) -> Tensor:
        noisy = kept.logp + gumbel(knobs.key, steps, kept.ids).to(logits.dtype)
        return (noisy / _strength(knobs, CONCRETE, logits.dtype)).log_softmax(-1)


class Dirichlet:
    """Weights from Dirichlet(alpha · p)."""

    @staticmethod
    def draw(kept: Kept, logits: Tensor, knobs: Knobs, steps: Tensor) -> Tensor:
        concentration = _strength(knobs, DIRICHLET, torch.float64) * kept.logp.detach().double().exp()
        drawn = loggamma(knobs.key, steps, concentration, kept.ids)
        drawn = drawn.masked_fill(kept.logp == -torch.inf, -torch.inf)
        return drawn.log_softmax(-1).to(logits.dtype)


class Multiplex:
    """Tokens drawn with replacement, weighted alike or by their probability (arXiv 2601.08808)."""

    @staticmethod
    def counts(kept: Kept, knobs: Knobs, steps: Tensor) -> Tensor:
        """(N, K) float32: how often each kept token was drawn."""
        lanes = torch.arange(knobs.longest_draw, device=kept.ids.device)
        running = kept.logp.detach().double().exp().cumsum(-1)
        below = torch.nextafter(running[:, -1:], torch.zeros_like(running[:, -1:]))
        targets = torch.minimum(uniform(knobs.key, steps, lanes) * running[:, -1:], below)
        chosen = torch.searchsorted(running, targets, right=True)
        drawn = (lanes < knobs.draws[:, None]).float()
        return torch.zeros_like(kept.logp, dtype=torch.float32).scatter_add(-1, chosen, drawn)

    @staticmethod
    def draw(kept: Kept, logits: Tensor, knobs: Knobs, steps: Tensor) -> Tensor:
        share = Multiplex.counts(kept, knobs, steps).to(logits.dtype).log()
        weighted = share + kept.logp
        return torch.where(knobs.by_probability[:, None], weighted, share).log_softmax(-1)


ON_WEIGHTS: dict[int, type[OnWeights]] = {
    GAUSSIAN_LOGITS: GaussianLogits,
    CONCRETE: Concrete,
    DIRICHLET: Dirichlet,
    MULTIPLEX: Multiplex,
}
"""By kind of noise. `GAUSSIAN` falls on what is fed instead."""
