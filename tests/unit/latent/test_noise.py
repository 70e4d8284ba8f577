"""Counter-based numbers and the noises drawn with them: their distributions, and whose they are.

Keys are fixed, so every statistic is the same number in every run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs.latent.inputs import soft
from jobs.latent.kept import Kept, keep
from jobs.latent.knobs import Knobs
from jobs.latent.noise import gumbel, loggamma, normal, uniform
from jobs.latent.perturb import ON_WEIGHTS, Multiplex
from jobs.latent.step import step
from tests.unit.latent.rows import begun, row

pytestmark = pytest.mark.heavy

COUNT = 4000
KEYS = torch.arange(COUNT) * 7919 - 3
ZERO = torch.zeros(COUNT, dtype=torch.int64)
KS_LIMIT = 1.63 / COUNT**0.5
"""Kolmogorov-Smirnov at 1 %: the statistic is deterministic here."""


def distance(sample: Tensor, cdf: Any) -> float:
    """The Kolmogorov-Smirnov statistic of a sample against a distribution function."""
    x = sample.double().sort().values
    f = np.asarray(cdf(x), dtype=float)
    rank = np.arange(len(x))
    return float(max((f - rank / len(x)).max(), ((rank + 1) / len(x) - f).max()))


def splitmix(x: int) -> int:
    """The finaliser, in Python's own integers."""
    wrap = 2**64 - 1
    x &= wrap
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & wrap
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & wrap
    return x ^ (x >> 31)


def test_numbers_are_those_of_the_published_hash() -> None:
    golden = 0x9E3779B97F4A7C15
    for key, place in [(0, 0), (1, 1), (-5, 2), (2**62, 1000)]:
        bits = splitmix(splitmix(key) + (place + 1) * golden)
        text = uniform(torch.tensor([key]), torch.tensor([place])).item()
        assert text == ((bits >> 12) + 0.5) / 2**52
        lanes = uniform(torch.tensor([key]), torch.tensor([place]), torch.tensor([0, 9]))[0].tolist()
        assert lanes == [((splitmix(bits + (lane + 1) * golden) >> 12) + 0.5) / 2**52 for lane in (0, 9)]


def test_lanes_of_one_row_do_not_depend_on_the_others() -> None:
    keys, steps = torch.tensor([5, 6]), torch.tensor([3, 3])
    wide = uniform(keys, steps, torch.arange(10))
    assert wide.shape == (2, 10)
    assert torch.equal(uniform(keys[1:], steps[1:], torch.arange(4)), wide[1:, :4])
    own = torch.tensor([[7, 2], [2, 9]])
    assert torch.equal(uniform(keys, steps, own), wide.gather(1, own))
    assert len(wide.unique()) == 20
    assert not torch.isin(uniform(keys, steps), wide).any(), "drawing text has numbers of its own"


def test_neighbouring_counters_are_independent() -> None:
    base = uniform(KEYS, ZERO, torch.arange(2))
    pairs = [
        (base[:, 0], base[:, 1]),
        (uniform(KEYS, ZERO), uniform(KEYS, ZERO + 1)),
        (base[:-1, 0], base[1:, 0]),
    ]
    for a, b in pairs:
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 3 / COUNT**0.5


@pytest.mark.parametrize(
    ("draw", "law"),
    [
        (uniform, torch.distributions.Uniform(0.0, 1.0)),
        (normal, torch.distributions.Normal(0.0, 1.0)),
        (gumbel, torch.distributions.Gumbel(0.0, 1.0)),
    ],
)
def test_numbers_follow_their_distribution(draw: Any, law: Any) -> None:
    sample = draw(KEYS, ZERO, torch.tensor([11])).squeeze(1)
    assert distance(sample, law.cdf) < KS_LIMIT
    assert sample.mean().item() == pytest.approx(float(law.mean), abs=4 * float(law.stddev) / COUNT**0.5)


@pytest.mark.parametrize("concentration", [0.05, 0.3, 0.999, 1.0, 2.5, 40.0])
def test_gamma_numbers_follow_their_distribution(concentration: float) -> None:
    a = torch.full((COUNT, 1), concentration, dtype=torch.float64)
    sample = loggamma(KEYS, ZERO, a, torch.tensor([4])).squeeze(1).exp()
    assert distance(sample, lambda x: torch.special.gammainc(a.squeeze(1), x)) < KS_LIMIT
    assert sample.mean().item() == pytest.approx(concentration, abs=4 * (concentration / COUNT) ** 0.5)
    assert sample.var().item() == pytest.approx(concentration, rel=0.6 if concentration < 0.1 else 0.2)


def test_a_tiny_concentration_does_not_underflow() -> None:
    got = loggamma(KEYS[:9], ZERO[:9], torch.full((9, 1), 1e-6, dtype=torch.float64), torch.tensor([0]))
    assert bool(got.isfinite().all())
    assert bool((got < -1000).any())


P = torch.tensor([0.5, 0.3, 0.15, 0.05])


def draws(noise: dict[str, Any]) -> tuple[Tensor, Kept, Knobs]:
    """Weights (COUNT, 4), in the order of the tokens, drawn around P."""
    knobs = Knobs.of([row({"kind": "soft", "max_topk": 4}, noise=noise)]).take(ZERO)._replace(key=KEYS)
    kept = keep(P.log().expand(COUNT, -1), knobs, 4)
    kind = next(iter(knobs.noises))
    return ON_WEIGHTS[kind].draw(kept, P.log().expand(COUNT, -1), knobs, ZERO).logw.exp(), kept, knobs


def close(sample: Tensor, mean: Tensor, sd: Tensor) -> None:
    """Means (4,) within four standard errors."""
    assert bool(((sample.mean(0) - mean).abs() < 4 * sd / COUNT**0.5).all()), (sample.mean(0), mean)


def test_concrete_weights_are_those_of_the_relaxed_categorical() -> None:
    weights, _, _ = draws({"kind": "concrete", "temperature": 0.5})
    assert torch.allclose(weights.sum(1), torch.ones(COUNT))
    first = torch.nn.functional.one_hot(weights.argmax(1), 4).float()  # the arg-max is an exact draw from p
    close(first, P, (P * (1 - P)).sqrt())
    logs = weights.log()
    residual = 0.5 * (logs[:, 0] - logs[:, 1]) - (P[0] / P[1]).log()  # a difference of two Gumbels: logistic
    assert distance(residual, lambda x: torch.sigmoid(x)) < KS_LIMIT
    score = 1 - 4 * (P.log() - 0.5 * logs).softmax(1)  # of the density: mean 0, variance (n - 1) / (n + 1)
    close(score, torch.zeros(4), torch.tensor(0.6).sqrt())
    assert score.var(0).tolist() == pytest.approx([0.6] * 4, rel=0.1)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 30.0])
def test_dirichlet_weights_have_the_moments_and_margins_of_their_distribution(alpha: float) -> None:
    weights, _, _ = draws({"kind": "dirichlet", "alpha": alpha})
    variance = P * (1 - P) / (alpha + 1)
    close(weights, P, variance.sqrt())
    assert weights.var(0).tolist() == pytest.approx(variance.tolist(), rel=0.15)
    torch.manual_seed(0)
    other = torch.distributions.Dirichlet(alpha * P).sample((COUNT,))[:, 1].sort().values
    mine = weights[:, 1].sort().values  # two samples: the limit grows by sqrt(2)
    grid = torch.cat([mine, other])
    apart = torch.searchsorted(mine, grid) - torch.searchsorted(other, grid)
    assert float(apart.abs().max()) / COUNT < KS_LIMIT * 2**0.5


@pytest.mark.parametrize("weighting", ["uniform", "probability"])
def test_multiplex_draws_with_replacement(weighting: str) -> None:
    weights, kept, knobs = draws({"kind": "multiplex", "draws": 3, "weighting": weighting})
    counts = Multiplex.counts(kept, knobs, ZERO)
    assert bool((counts.sum(1) == 3).all())
    close(counts, 3 * P, (3 * P * (1 - P)).sqrt())
    want = counts if weighting == "uniform" else counts * P
    assert torch.allclose(weights, want / want.sum(1, keepdim=True), atol=1e-6)


def test_gaussian_noise_on_logits_has_the_rms_of_the_kept_logits_as_its_scale() -> None:
    weights, _, _ = draws({"kind": "gaussian", "on": "logits", "strength": 0.1})
    sigma = 0.1 * P.log().square().mean().sqrt()
    logs = weights.log()
    gap = (logs[:, 0] - logs[:, 1] - (P[0] / P[1]).log()) / (sigma * 2**0.5)
    assert distance(gap, torch.distributions.Normal(0.0, 1.0).cdf) < KS_LIMIT


@pytest.mark.parametrize("scale", ["rms", "absolute"])
def test_gaussian_noise_on_the_input_has_the_scale_that_it_names(scale: str) -> None:
    knobs = Knobs.of([row("hidden", noise={"kind": "gaussian", "strength": 0.05, "scale": scale})])
    hidden, embedding = torch.randn(1, COUNT) * 7, torch.randn(10, COUNT)
    out = step(None, hidden, begun(knobs, COUNT), knobs, embedding)
    sigma = 0.05 * (float(hidden.square().mean().sqrt()) if scale == "rms" else 1.0)
    assert out.thought.sigma.item() == pytest.approx(sigma, rel=1e-5)
    assert out.thought.noised.tolist() == [True]
    eps = (out.x - hidden).squeeze(0) / sigma
    assert distance(eps, torch.distributions.Normal(0.0, 1.0).cdf) < KS_LIMIT


NOISES: list[dict[str, Any]] = [
    {"kind": "gaussian"},
    {"kind": "gaussian", "on": "logits"},
    {"kind": "concrete"},
    {"kind": "dirichlet"},
    {"kind": "multiplex"},
    {"kind": "multiplex", "weighting": "probability", "draws": 5},
]


def test_a_sample_draws_the_same_noise_in_any_batch_order_and_width() -> None:
    torch.manual_seed(5)
    rows = [row({"kind": "soft", "top_p": 0.8}, noise=n, key=i) for i, n in enumerate(NOISES)]
    mates = [row("hidden"), row({"kind": "soft", "max_topk": 200}), row({"kind": "soft", "max_topk": None})]
    logits, hidden, embedding = torch.randn(6, 400), torch.randn(6, 4), torch.randn(400, 4)
    for i, own in enumerate(rows):
        knobs = Knobs.of([own])
        alone = step(logits[i : i + 1], hidden[i : i + 1], begun(knobs), knobs, embedding)
        for batch in ([*mates[:2], *rows], [*rows[::-1], *mates]):
            at = batch.index(own)
            order = [rows.index(r) if r in rows else 0 for r in batch]
            knobs = Knobs.of(batch)
            out = step(logits[order], hidden[order], begun(knobs), knobs, embedding)
            assert torch.allclose(out.x[at], alone.x[0], atol=1e-6)
            assert out.thought.ids[at, 0] == alone.thought.ids[0, 0]


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_noise_changes_from_step_to_step_and_from_sample_to_sample(noise: dict[str, Any]) -> None:
    knobs = Knobs.of([row({"kind": "soft"}, noise=noise, key=k) for k in (1, 1, 2)])
    logits, hidden = torch.randn(1, 50).expand(3, -1), torch.randn(1, 4).expand(3, -1)
    embedding = torch.randn(50, 4)
    first = step(logits, hidden, begun(knobs), knobs, embedding)
    second = step(logits, hidden, first.state, knobs, embedding)
    assert torch.equal(first.x[0], first.x[1])
    assert not torch.allclose(first.x[0], first.x[2])
    assert not torch.allclose(first.x[0], second.x[0])


@pytest.mark.parametrize("noise", NOISES[1:], ids=str)
def test_the_recorded_tokens_follow_the_noisy_order_and_give_back_the_input(noise: dict[str, Any]) -> None:
    knobs = Knobs.of([row({"kind": "soft"}, noise=noise, key=k) for k in range(20)])
    logits, embedding = torch.randn(20, 50), torch.randn(50, 4)
    out = step(logits, torch.randn(20, 4), begun(knobs), knobs, embedding)
    assert bool((out.thought.weights.diff(dim=-1) <= 0).all())
    assert torch.equal(soft(out.thought.weights, out.thought.ids, embedding), out.x)
    assert bool((out.thought.ids[:, 0] != logits.argmax(-1)).any()), "noise moves the first token"


def test_a_peaked_distribution_is_not_moved_by_noise_on_weights() -> None:
    logits = torch.full((5, 30), -torch.inf)
    logits[:, 4] = 1.0
    knobs = Knobs.of([row({"kind": "soft"}, noise=n) for n in NOISES[1:]])
    embedding = torch.randn(30, 4)
    out = step(logits, torch.randn(5, 4), begun(knobs), knobs, embedding)
    assert torch.equal(out.x, embedding[[4] * 5])
