"""The density of recorded latent steps under a model, whichever noise fell on them.

All steps of a call are of one kind; `Actions.of_kind` picks them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from jobs.latent.actions import Actions
from jobs.latent.knobs import CONCRETE, DIRICHLET, GAUSSIAN, GAUSSIAN_LOGITS, MULTIPLEX
from jobs.latent.perturb import Concrete, Dirichlet, Gaussian, GaussianLogits, Multiplex
from latentctl.spec.latent import LatentSpec, SoftInput

Reduction = Literal["sum", "mean_over_dims"]


class Settings(NamedTuple):
    """What of a stage's latent settings a density depends on."""

    temperature: float
    """Of the soft input; 1 for others."""
    strength: float
    """Temperature of concrete noise, alpha of Dirichlet noise."""
    draws: int
    """Of multiplex noise."""

    @staticmethod
    def of(spec: LatentSpec) -> Settings:
        """Settled settings."""
        noise = spec.noise
        strength, draws = 1.0, 1
        if noise is not None and noise.kind == "concrete":
            strength = noise.temperature
        elif noise is not None and noise.kind == "dirichlet":
            strength = noise.alpha
        elif noise is not None and noise.kind == "multiplex":
            draws = noise.draws
        return Settings(spec.input.temperature if isinstance(spec.input, SoftInput) else 1.0, strength, draws)


def kept_logp(logits: Tensor, kept: Tensor, temperature: float) -> Tensor:
    """(n, K) log-probs among the kept tokens, -inf elsewhere; `logits` (n, K) of the recorded ids, raw."""
    return (logits / temperature).masked_fill(~kept, -torch.inf).log_softmax(-1)


def log_prob(
    actions: Actions,
    kind: int,
    settings: Settings,
    *,
    logits: Tensor | None = None,
    mean: Tensor | None = None,
    z: Tensor | None = None,
    reduction: Reduction = "sum",
) -> Tensor:
    """(n,) of n steps of one `kind`, exact for `reduction: sum`; `mean_over_dims` divides it by the number of
    dimensions (the width for `GAUSSIAN`, kept tokens, draws of multiplex).

    `logits` (n, K): the model's, raw, of `actions.ids`; for `GAUSSIAN` instead `mean` (n, d), what the model
    would feed undisturbed, and `z` (n, d), what was fed.
    """
    if kind == GAUSSIAN:
        assert mean is not None
        assert z is not None
        found = Gaussian.log_prob(z.float(), mean.float(), actions.sigma)
        dims = torch.tensor(float(z.shape[-1]))
    else:
        assert logits is not None
        kept, x = actions.kept, actions.x
        dims = kept.sum(-1)
        if kind == GAUSSIAN_LOGITS:
            found = GaussianLogits.log_prob(x, logits, kept, actions.sigma)
        else:
            logp = kept_logp(logits, kept, settings.temperature)
            if kind == CONCRETE:
                found = Concrete.log_prob(x, logp, kept, settings.strength)
            elif kind == DIRICHLET:
                found = Dirichlet.log_prob(x, logp, kept, settings.strength)
            elif kind == MULTIPLEX:
                found, dims = Multiplex.log_prob(x, logp, kept), torch.tensor(float(settings.draws))
            else:
                raise ValueError(f"steps of kind {kind} have no density")
    return found if reduction == "sum" else found / dims.to(found.device)


def kl(
    actions: Actions,
    kind: int,
    settings: Settings,
    *,
    logits: Tensor | None = None,
    other: Tensor | None = None,
    mean: Tensor | None = None,
    other_mean: Tensor | None = None,
) -> Tensor:
    """(n,) KL divergence in nats from the model to the `other` one at steps of one `kind`. In closed form,
    but for concrete noise, whose is estimated from what was drawn: k3 = exp(r) - r - 1 with
    r = log p_other - log p (Schulman 2020), whose mean over draws it is."""
    if kind == GAUSSIAN:
        assert mean is not None
        assert other_mean is not None
        return Gaussian.kl(mean.float(), other_mean.float(), actions.sigma)
    assert logits is not None
    assert other is not None
    kept = actions.kept
    if kind == GAUSSIAN_LOGITS:
        return GaussianLogits.kl(logits, other, kept, actions.sigma)
    a, b = (kept_logp(each, kept, settings.temperature) for each in (logits, other))
    if kind == DIRICHLET:
        return Dirichlet.kl(a, b, kept, settings.strength)
    if kind == MULTIPLEX:
        return Multiplex.kl(a, b, kept, settings.draws)
    gap = Concrete.log_prob(actions.x, b, kept, settings.strength) - Concrete.log_prob(
        actions.x, a, kept, settings.strength
    )
    return gap.exp() - gap - 1


def weights_kl(actions: Actions, logp: Tensor) -> Tensor:
    """(n,) KL divergence in nats from the recorded weights to the model's, `logp` (n, K) among the kept."""
    w = actions.weights
    gap = w.clamp(min=torch.finfo(w.dtype).tiny).log() - logp.masked_fill(~actions.kept, 0.0)
    return (w * gap).masked_fill(~actions.kept, 0.0).sum(-1)
