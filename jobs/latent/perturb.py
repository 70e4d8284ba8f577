"""Noise on a latent step, as distributions: each namespace draws, and knows the density of what it drew.

A draw is a function of the row's key, of how many latent steps its sample took before, and of the token (or
dimension) that the noise falls on: never of the neighbours, of the order of tokens, or of how many are kept.

Densities are of what was drawn (`Drawn.x`, or the vector that was fed), given what a model says now. They are
exact and differentiable in the model's part. Kept sets, standard deviations and draws are data: they are
recorded, never worked out again. Sources: Maddison et al. 2017 and Jang et al. 2017 (concrete), arXiv
2509.19170 (gaussian), arXiv 2601.08808 (multiplex).
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from jobs.latent.kept import Kept
from jobs.latent.knobs import CONCRETE, DIRICHLET, GAUSSIAN_LOGITS, MULTIPLEX, Knobs
from jobs.latent.noise import gumbel, loggamma, normal, uniform

_LOG_ROOT_TAU = 0.5 * math.log(2 * math.pi)
LEAST = 1e-3
"""Of a token's concentration in a Dirichlet distribution: those below are left out of it."""


class Drawn(NamedTuple):
    """Noisy weights of the kept tokens of N rows."""

    logw: Tensor
    """(N, K) log-weights, -inf: no weight."""
    x: Tensor
    """(N, K) what was drawn, of which `log_prob` is the density."""
    kept: Tensor
    """(N, K) bool: the tokens that the draw was over."""


class OnWeights(Protocol):
    """Noise on the weights of the kept tokens."""

    @staticmethod
    def draw(kept: Kept, logits: Tensor, knobs: Knobs, steps: Tensor) -> Drawn:
        """`logits` (N, K): of the kept tokens, as the model gave them; `steps` (N,) int64: latent steps that
        the sample took before. Rows of other noises hold anything."""
        ...


def _strength(knobs: Knobs, kind: int, dtype: torch.dtype) -> Tensor:
    """(N, 1); 1 in rows of other kinds, so that nothing is divided by another kind's 0."""
    return knobs.strength.masked_fill(knobs.noise != kind, 1.0)[:, None].to(dtype)


def _over(values: Tensor, kept: Tensor) -> Tensor:
    """(N, K) -> (N,): the sum over the kept ones, whatever stands beside them."""
    return values.masked_fill(~kept, 0.0).sum(-1)


class Gaussian:
    """Normal noise on what is fed: z = x + sigma · eps, eps ~ N(0, I)."""

    @staticmethod
    def sigma(x: Tensor, knobs: Knobs) -> Tensor:
        """(N, 1): strength, times the RMS of `x` (N, d) unless absolute."""
        rms = x.square().mean(-1, keepdim=True).sqrt()
        return knobs.strength[:, None] * torch.where(knobs.absolute[:, None], torch.ones_like(rms), rms)

    @staticmethod
    def floor(x: Tensor, knobs: Knobs) -> Tensor:
        """(N, 1): of the noise on steps that are not disturbed."""
        return knobs.floor[:, None] * x.square().mean(-1, keepdim=True).sqrt()

    @staticmethod
    def draw(x: Tensor, sigma: Tensor, knobs: Knobs, steps: Tensor) -> Tensor:
        """(N, d) float32."""
        lanes = torch.arange(x.shape[-1], device=x.device)
        return x.float() + sigma * normal(knobs.key, steps, lanes).to(sigma.dtype)

    @staticmethod
    def log_prob(z: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
        """(N,) of what was fed, `z` (N, d), where the model would feed `mean` (N, d); `sigma` (N,)."""
        squares = (z.detach() - mean).square().sum(-1)
        return -squares / (2 * sigma.square()) - z.shape[-1] * (sigma.log() + _LOG_ROOT_TAU)

    @staticmethod
    def kl(mean: Tensor, other: Tensor, sigma: Tensor) -> Tensor:
        """(N,) between two models' means, in nats."""
        return (mean - other).square().sum(-1) / (2 * sigma.square())


class GaussianLogits:
    """Normal noise on the kept logits, before the temperature; what was drawn are the noisy logits."""

    @staticmethod
    def sigma(kept: Kept, logits: Tensor, knobs: Knobs) -> Tensor:
        """(N, 1): strength, times the RMS of the kept logits unless absolute."""
        there = kept.logp > -torch.inf
        squares = logits.masked_fill(~there, 0.0).square().sum(-1, keepdim=True)
        rms = (squares / there.sum(-1, keepdim=True)).sqrt()
        return knobs.strength[:, None] * torch.where(knobs.absolute[:, None], torch.ones_like(rms), rms)

    @staticmethod
    def draw(kept: Kept, logits: Tensor, knobs: Knobs, steps: Tensor) -> Drawn:
        noise = GaussianLogits.sigma(kept, logits, knobs) * normal(knobs.key, steps, kept.ids).to(
            logits.dtype
        )
        logw = (kept.logp + noise / knobs.temperature[:, None].to(logits.dtype)).log_softmax(-1)
        return Drawn(logw, logits + noise, kept.logp > -torch.inf)

    @staticmethod
    def log_prob(x: Tensor, logits: Tensor, kept: Tensor, sigma: Tensor) -> Tensor:
        """(N,) of the logits that were drawn, `x` (N, K), under the model's `logits` (N, K)."""
        each = -(x - logits).square() / (2 * sigma.square())[:, None] - (sigma.log() + _LOG_ROOT_TAU)[:, None]
        return _over(each, kept)

    @staticmethod
    def kl(logits: Tensor, other: Tensor, kept: Tensor, sigma: Tensor) -> Tensor:
        """(N,) between two models' logits, in nats."""
        return _over((logits - other).square(), kept) / (2 * sigma.square())


class Concrete:
    """Weights softmax((log p + Gumbel) / tau); what was drawn are their logarithms."""

    @staticmethod
    def draw(kept: Kept, logits: Tensor, knobs: Knobs, steps: Tensor) -> Drawn:
        noisy = kept.logp + gumbel(knobs.key, steps, kept.ids).to(logits.dtype)
        logw = (noisy / _strength(knobs, CONCRETE, logits.dtype)).log_softmax(-1)
        return Drawn(logw, logw, kept.logp > -torch.inf)

    @staticmethod
    def log_prob(x: Tensor, logp: Tensor, kept: Tensor, tau: float) -> Tensor:
        """(N,) of log-weights `x` (N, K) on the simplex of the n kept tokens, whose log-probs are `logp`:
        ln Γ(n) + (n - 1) ln τ + Σ (logp - τ x) - n · logsumexp(logp - τ x)."""
        n = kept.sum(-1).to(logp.dtype)
        gaps = (logp - tau * x.masked_fill(~kept, 0.0)).masked_fill(~kept, -torch.inf)
        return torch.lgamma(n) + (n - 1) * math.log(tau) + _over(gaps, kept) - n * gaps.logsumexp(-1)


class Dirichlet:
    """Weights from Dirichlet(alpha · p) over the kept tokens whose concentration is at least `LEAST`."""

    @staticmethod
    def draw(kept: Kept, logits: Tensor, knobs: Knobs, steps: Tensor) -> Drawn:
        alpha = _strength(knobs, DIRICHLET, torch.float64)
        p = kept.logp.detach().double().exp()
        there = (kept.logp > -torch.inf) & (alpha * p >= LEAST)
        there[:, 0] = True
        p = p.masked_fill(~there, 0.0)
        drawn = loggamma(knobs.key, steps, alpha * p / p.sum(-1, keepdim=True), kept.ids)
        logw = drawn.masked_fill(~there, -torch.inf).log_softmax(-1).to(logits.dtype)
        return Drawn(logw, logw, there)

    @staticmethod
    def log_prob(x: Tensor, logp: Tensor, kept: Tensor, alpha: float) -> Tensor:
        """(N,) of weights with logarithms `x` (N, K)."""
        each = Dirichlet._concentration(logp, kept, alpha)
        ones = each.masked_fill(~kept, 1.0)
        total = torch.lgamma(_over(each, kept)) - _over(torch.lgamma(ones), kept)
        return total + _over((ones - 1) * x.masked_fill(~kept, 0.0), kept)

    @staticmethod
    def kl(logp: Tensor, other: Tensor, kept: Tensor, alpha: float) -> Tensor:
        """(N,) between two models, in nats."""
        a = Dirichlet._concentration(logp, kept, alpha).masked_fill(~kept, 1.0)
        b = Dirichlet._concentration(other, kept, alpha).masked_fill(~kept, 1.0)
        whole = _over(a, kept)
        normal = torch.lgamma(whole) - torch.lgamma(_over(b, kept))
        each = (
            torch.lgamma(b) - torch.lgamma(a) + (a - b) * (torch.digamma(a) - torch.digamma(whole)[:, None])
        )
        return normal + _over(each, kept)

    @staticmethod
    def _concentration(logp: Tensor, kept: Tensor, alpha: float) -> Tensor:
        """(N, K); a model that has left a token far behind still gives it a little."""
        return (alpha * logp.exp()).clamp(min=LEAST * LEAST).masked_fill(~kept, 0.0)


class Multiplex:
    """Tokens drawn with replacement, weighted alike or by their probability; what was drawn is how often."""

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
    def draw(kept: Kept, logits: Tensor, knobs: Knobs, steps: Tensor) -> Drawn:
        counts = Multiplex.counts(kept, knobs, steps).to(logits.dtype)
        share = counts.log()
        logw = torch.where(knobs.by_probability[:, None], share + kept.logp, share).log_softmax(-1)
        return Drawn(logw, counts, kept.logp > -torch.inf)

    @staticmethod
    def log_prob(counts: Tensor, logp: Tensor, kept: Tensor) -> Tensor:
        """(N,) of the tokens in the order in which they came: Σ counts · log p."""
        return _over(counts * logp.masked_fill(~kept, 0.0), kept)

    @staticmethod
    def kl(logp: Tensor, other: Tensor, kept: Tensor, draws: int) -> Tensor:
        """(N,) of `draws` draws between two models, in nats."""
        gap = logp.masked_fill(~kept, 0.0) - other.masked_fill(~kept, 0.0)
        return draws * _over(logp.exp() * gap, kept)


ON_WEIGHTS: dict[int, type[OnWeights]] = {
    GAUSSIAN_LOGITS: GaussianLogits,
    CONCRETE: Concrete,
    DIRICHLET: Dirichlet,
    MULTIPLEX: Multiplex,
}
"""By kind of noise. `GAUSSIAN` falls on what is fed instead."""
