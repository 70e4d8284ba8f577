"""A bandit whose arm is a latent step: the policy gradient points where finite differences do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from rows import many, row
from torch import Tensor

from jobs.latent.actions import Actions
from jobs.latent.density import Settings, kept_logp, log_prob
from jobs.latent.kept import Kept
from jobs.latent.knobs import CONCRETE, DIRICHLET, GAUSSIAN, GAUSSIAN_LOGITS, MULTIPLEX, Knobs
from jobs.latent.perturb import ON_WEIGHTS, Gaussian

N = 100_000
NOISES: dict[int, dict[str, Any]] = {
    GAUSSIAN_LOGITS: {"kind": "gaussian", "on": "logits", "strength": 0.7, "scale": "absolute"},
    CONCRETE: {"kind": "concrete", "temperature": 0.5},
    DIRICHLET: {"kind": "dirichlet", "alpha": 3.0},
    MULTIPLEX: {"kind": "multiplex", "draws": 3},
    GAUSSIAN: {"kind": "gaussian", "strength": 0.5, "scale": "absolute"},
}
STRENGTH = {CONCRETE: 0.5, DIRICHLET: 3.0}
EMBEDDING = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]])


def knobs_of(kind: int, count: int, seed: int) -> Knobs:
    return many(row({"kind": "soft", "max_topk": 2}, noise=NOISES[kind]), count, seed=seed)


def pull(kind: int, logits: Tensor, knobs: Knobs) -> tuple[Actions, Tensor, Tensor]:
    """Actions, what was fed (N, 3), and the reward of each: how near it is to the second token."""
    count = len(knobs.kind)
    zero = torch.zeros(count, dtype=torch.long)
    ids = torch.arange(2).expand(count, -1)
    logp = logits.log_softmax(-1).expand(count, -1)
    nan = torch.full((count,), torch.nan)
    there = torch.ones(count, 2, dtype=torch.bool)
    sigma = torch.zeros(count)
    if kind == GAUSSIAN:
        mean = (logp.exp() @ EMBEDDING).float()
        spread = Gaussian.sigma(mean, knobs)
        fed = Gaussian.draw(mean, spread, knobs, zero)
        weights, x, sigma = logp.exp(), logp, spread.squeeze(-1)
    else:
        made = ON_WEIGHTS[kind].draw(Kept(ids, logp, nan, nan), logits.expand(count, -1), knobs, zero)
        weights, x = made.logw.exp(), made.x
        fed = weights @ EMBEDDING
        if kind == GAUSSIAN_LOGITS:
            sigma = torch.full((count,), 0.7)
    actions = Actions(torch.full((count,), kind), ids, there, x, weights, sigma, nan, nan > 0, None)
    reward = torch.tanh(fed @ torch.tensor([-1.0, 1.0, 0.3]))
    return actions, fed, reward


def density(kind: int, actions: Actions, fed: Tensor, logits: Tensor) -> Tensor:
    settings = Settings(1.0, STRENGTH.get(kind, 1.0), 3)
    many = logits.expand(len(fed), -1)
    if kind == GAUSSIAN:
        mean = kept_logp(many, actions.kept, 1.0).exp() @ EMBEDDING
        return log_prob(actions, kind, settings, mean=mean, z=fed)
    return log_prob(actions, kind, settings, logits=many)


@pytest.mark.parametrize("kind", NOISES)
def test_the_gradient_is_that_of_finite_differences(kind: int) -> None:
    """Of the expected reward, with the same numbers drawn on both sides (N = 100,000), within 4 errors."""
    start = torch.tensor([0.4, -0.2])
    knobs = knobs_of(kind, N, seed=1)
    actions, fed, reward = pull(kind, start, knobs)
    logits = start.clone().requires_grad_()
    rows = logits.expand(N, -1).clone()
    rows.retain_grad()
    settings = Settings(1.0, STRENGTH.get(kind, 1.0), 3)
    if kind == GAUSSIAN:
        found = log_prob(
            actions, kind, settings, mean=kept_logp(rows, actions.kept, 1.0).exp() @ EMBEDDING, z=fed
        )
    else:
        found = log_prob(actions, kind, settings, logits=rows)
    found.sum().backward()
    assert rows.grad is not None
    each = ((reward - reward.mean())[:, None] * rows.grad).double()
    step = 0.05
    for i in range(2):
        nudge = torch.zeros(2)
        nudge[i] = step
        up, down = (pull(kind, start + s * nudge, knobs)[2].double() for s in (1, -1))
        slope = (up - down) / (2 * step)
        error = math.hypot(float(each[:, i].std()), float(slope.std())) / math.sqrt(N)
        assert float(each[:, i].mean()) == pytest.approx(float(slope.mean()), abs=4 * error + 2e-3)
        assert abs(float(slope.mean())) > 10 * 2e-3


@pytest.mark.parametrize("kind", NOISES)
def test_the_policy_comes_to_the_rewarded_token(kind: int) -> None:
    logits = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for i in range(150):
        actions, fed, reward = pull(kind, logits.detach(), knobs_of(kind, 64, seed=i))
        loss = -((reward - reward.mean()) * density(kind, actions, fed, logits)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(logits.detach().softmax(-1)[1]) > 0.95


@pytest.mark.parametrize("kind", NOISES)
def test_the_ratio_of_equal_policies_is_exactly_one(kind: int) -> None:
    logits = torch.tensor([0.4, -0.2])
    actions, fed, _ = pull(kind, logits, knobs_of(kind, 100, seed=3))
    one, other = (density(kind, actions, fed, logits.clone()) for _ in range(2))
    assert (one - other).exp().tolist() == [1.0] * 100
