"""Densities of noisy latent steps: against independent ones, their scores, what they integrate to."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from rows import many, row
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence
from torch.distributions import Dirichlet as TorchDirichlet
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from jobs.latent.actions import Actions
from jobs.latent.density import Settings, kept_logp, kl, log_prob, weights_kl
from jobs.latent.kept import Kept
from jobs.latent.knobs import CONCRETE, DIRICHLET, GAUSSIAN_LOGITS, MULTIPLEX, Knobs
from jobs.latent.perturb import LEAST, ON_WEIGHTS, Gaussian, GaussianLogits

N = 40_000
TAU, ALPHA, DRAWS, SIGMA, HEAT = 0.5, 4.0, 3, 0.3, 0.7
LOGITS = torch.tensor([2.0, 1.3, 0.2, -0.5, -1.0])
KEPT = torch.tensor([True, True, True, True, False])
NOISES: dict[int, dict[str, Any]] = {
    GAUSSIAN_LOGITS: {"kind": "gaussian", "on": "logits", "strength": SIGMA, "scale": "absolute"},
    CONCRETE: {"kind": "concrete", "temperature": TAU},
    DIRICHLET: {"kind": "dirichlet", "alpha": ALPHA},
    MULTIPLEX: {"kind": "multiplex", "draws": DRAWS},
}
STRENGTH = {GAUSSIAN_LOGITS: 1.0, CONCRETE: TAU, DIRICHLET: ALPHA, MULTIPLEX: 1.0}


def settings(kind: int) -> Settings:
    return Settings(HEAT, STRENGTH[kind], DRAWS)


def drawn(kind: int, count: int = N) -> Actions:
    """So many steps drawn by the code that rollouts draw with, from softmax(LOGITS / HEAT) over the kept."""
    soft = {"kind": "soft", "temperature": HEAT, "max_topk": 5}
    knobs = many(row(soft, noise=NOISES[kind]), count)
    logp = kept_logp(LOGITS[None], KEPT[None], HEAT).expand(count, -1)
    ids = torch.arange(5).expand(count, -1)
    nan = torch.full((count,), torch.nan)
    kept = Kept(ids, logp, nan, nan)
    made = ON_WEIGHTS[kind].draw(kept, LOGITS.expand(count, -1), knobs, torch.zeros(count, dtype=torch.long))
    sigma = torch.full((count,), SIGMA if kind == GAUSSIAN_LOGITS else 0.0)
    kinds = torch.full((count,), kind)
    return Actions(kinds, ids, made.kept, made.x, made.logw.exp(), sigma, nan, torch.ones(count).bool(), None)


def value(kind: int, actions: Actions, logits: Tensor, **more: Any) -> Tensor:
    return log_prob(actions, kind, settings(kind), logits=logits.expand(len(actions.kind), -1), **more)


@pytest.mark.parametrize("kind", NOISES)
def test_the_score_has_mean_zero(kind: int) -> None:
    """Within 3 standard errors, with respect to the model's logits (E9)."""
    actions = drawn(kind)
    logits = LOGITS.expand(N, -1).clone().requires_grad_()
    log_prob(actions, kind, settings(kind), logits=logits).sum().backward()
    assert logits.grad is not None
    score = logits.grad[:, :4].double()
    error = score.std(0) / math.sqrt(N)
    assert (score.mean(0).abs() <= 3 * error + 1e-12).all()
    assert (score.std(0) > 0).all()


def test_the_score_of_normal_noise_on_the_input_has_mean_zero() -> None:
    d = 8
    x = torch.randn(1, d).expand(N, -1)
    noise = {"kind": "gaussian", "strength": SIGMA}
    knobs = many(row("hidden", noise=noise), N)
    sigma = Gaussian.sigma(x, knobs)
    z = Gaussian.draw(x, sigma, knobs, torch.zeros(N, dtype=torch.long))
    mean = x.clone().requires_grad_()
    found = Gaussian.log_prob(z, mean, sigma.squeeze(-1))
    wanted = Normal(x, sigma).log_prob(z).sum(-1)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
    found.sum().backward()
    assert mean.grad is not None
    score = mean.grad.double()
    assert (score.mean(0).abs() <= 3 * score.std(0) / math.sqrt(N)).all()


def test_the_variance_of_the_concrete_score_is_that_of_its_closed_form() -> None:
    """(n - 1) / (n + 1) with respect to log-probs: the card's E3."""
    actions = drawn(CONCRETE)
    logp = kept_logp(LOGITS[None], KEPT[None], HEAT)[:, :4]
    score = 1 - 4 * (logp - TAU * actions.x[:, :4]).softmax(-1)
    torch.testing.assert_close(score.var(0), torch.full((4,), 3 / 5), atol=0.02, rtol=0)


def test_concrete_is_torchs_relaxed_categorical() -> None:
    actions = drawn(CONCRETE, 200)
    logp = kept_logp(LOGITS[None], KEPT[None], HEAT)[0, :4]
    other = ExpRelaxedCategorical(torch.tensor(TAU), logits=logp)
    torch.testing.assert_close(
        value(CONCRETE, actions, LOGITS), other.log_prob(actions.x[:, :4]), atol=1e-5, rtol=1e-5
    )


def test_dirichlet_is_torchs() -> None:
    actions = drawn(DIRICHLET, 200)
    p = kept_logp(LOGITS[None], KEPT[None], HEAT)[0, :4].exp().double()
    y = actions.x[:, :4].double().exp()
    found = log_prob(
        actions._replace(x=actions.x.double()),
        DIRICHLET,
        settings(DIRICHLET),
        logits=LOGITS.double().expand(200, -1),
    )
    torch.testing.assert_close(
        found, TorchDirichlet(ALPHA * p).log_prob(y / y.sum(-1, keepdim=True)), atol=1e-4, rtol=1e-4
    )


def test_multiplex_is_the_probability_of_its_tokens() -> None:
    actions = drawn(MULTIPLEX, 200)
    assert (actions.x.sum(-1) == DRAWS).all()
    one = Categorical(logits=kept_logp(LOGITS[None], KEPT[None], HEAT)[0, :4])
    tokens = [[i for i in range(4) for _ in range(int(c[i]))] for c in actions.x]
    wanted = torch.stack([one.log_prob(torch.tensor(t)).sum() for t in tokens])
    torch.testing.assert_close(value(MULTIPLEX, actions, LOGITS), wanted, atol=1e-5, rtol=1e-5)


def test_noisy_logits_are_normal() -> None:
    actions = drawn(GAUSSIAN_LOGITS, 200)
    wanted = Normal(LOGITS[:4], SIGMA).log_prob(actions.x[:, :4]).sum(-1)
    torch.testing.assert_close(value(GAUSSIAN_LOGITS, actions, LOGITS), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [CONCRETE, DIRICHLET])
def test_two_tokens_integrate_to_one(kind: int) -> None:
    """Over the first weight y: the density of log-weights times the Jacobian of y, by quadrature."""
    logits = torch.tensor([0.4, -0.3], dtype=torch.float64)
    y = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    x = torch.stack([y, 1 - y], -1).log()
    ones = torch.ones_like(x)
    actions = Actions(torch.full((len(y),), kind), ones.long(), ones.bool(), x, x.exp(), y, y, y > 0, None)
    found = log_prob(actions, kind, settings(kind), logits=logits.expand(len(y), -1))
    if kind == CONCRETE:  # of log-weights; dy = y (1 - y) d(log y - log (1 - y)) turns it into one of y
        found = found - x.sum(-1)
    assert float(found.exp().mean()) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("kind", NOISES)
def test_kl_is_the_mean_of_log_ratios(kind: int) -> None:
    other = LOGITS + torch.tensor([0.3, -0.2, 0.1, 0.2, 5.0])
    actions = drawn(kind)
    a, b = value(kind, actions, LOGITS), value(kind, actions, other)
    found = kl(actions, kind, settings(kind), logits=LOGITS.expand(N, -1), other=other.expand(N, -1))
    error = float((a - b).double().std()) / math.sqrt(N)
    assert float(found.mean()) == pytest.approx(float((a - b).mean()), abs=4 * error)
    same = kl(actions, kind, settings(kind), logits=LOGITS.expand(N, -1), other=LOGITS.expand(N, -1))
    torch.testing.assert_close(same, torch.zeros(N), atol=1e-5, rtol=0)


def test_dirichlets_kl_is_torchs() -> None:
    other = LOGITS + torch.tensor([0.3, -0.2, 0.1, 0.2, 5.0])
    p, q = (kept_logp(each[None], KEPT[None], HEAT)[0, :4].exp() for each in (LOGITS, other))
    wanted = kl_divergence(TorchDirichlet(ALPHA * p), TorchDirichlet(ALPHA * q))
    actions = drawn(DIRICHLET, 1)
    found = kl(actions, DIRICHLET, settings(DIRICHLET), logits=LOGITS[None], other=other[None])
    torch.testing.assert_close(found[0], wanted, atol=1e-5, rtol=1e-4)


def test_normal_kl_is_torchs() -> None:
    a, b = torch.randn(3, 8), torch.randn(3, 8)
    sigma = torch.tensor([0.1, 0.5, 2.0])
    wanted = kl_divergence(Normal(a, sigma[:, None]), Normal(b, sigma[:, None])).sum(-1)
    torch.testing.assert_close(Gaussian.kl(a, b, sigma), wanted, atol=1e-4, rtol=1e-5)
    logits = GaussianLogits.kl(a, b, torch.ones(3, 8).bool(), sigma)
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "dims"), [(CONCRETE, 4), (DIRICHLET, 4), (GAUSSIAN_LOGITS, 4), (MULTIPLEX, DRAWS)]
)
def test_the_mean_over_dimensions(kind: int, dims: int) -> None:
    actions = drawn(kind, 20)
    whole, mean = value(kind, actions, LOGITS), value(kind, actions, LOGITS, reduction="mean_over_dims")
    torch.testing.assert_close(mean * dims, whole)


@pytest.mark.parametrize("kind", NOISES)
def test_tokens_that_were_not_kept_have_no_part(kind: int) -> None:
    actions = drawn(kind, 20)
    logits = LOGITS.expand(20, -1).clone().requires_grad_()
    found = log_prob(actions, kind, settings(kind), logits=logits)
    far = logits.detach() + torch.tensor([0.0, 0, 0, 0, 50.0])
    torch.testing.assert_close(log_prob(actions, kind, settings(kind), logits=far), found)
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, 4] == 0).all()


def test_dirichlet_leaves_out_what_has_hardly_any_concentration() -> None:
    soft = {"kind": "soft", "max_topk": 3}
    knobs = Knobs.of([row(soft, noise={"kind": "dirichlet", "alpha": 1.0}, key=1)])
    p = torch.tensor([[0.6, 0.4 - LEAST / 2, LEAST / 2]])
    kept = Kept(torch.arange(3)[None], p.log(), torch.zeros(1), torch.ones(1))
    made = ON_WEIGHTS[DIRICHLET].draw(kept, p.log(), knobs, torch.zeros(1, dtype=torch.long))
    assert made.kept.tolist() == [[True, True, False]]
    assert float(made.logw.exp()[0, 2]) == 0.0


def test_weights_far_from_the_models_have_a_large_divergence() -> None:
    actions = drawn(CONCRETE, 50)
    logp = kept_logp(LOGITS.expand(50, -1), actions.kept, HEAT)
    own = weights_kl(actions._replace(weights=logp.exp()), logp)
    torch.testing.assert_close(own, torch.zeros(50), atol=1e-6, rtol=0)
    assert (weights_kl(actions, logp) > 0).all()
