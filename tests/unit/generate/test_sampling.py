"""Drawing a token: filters against a naive implementation, the distribution, the noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from jobs.generate.sampling import Knobs, argmax, draw, kept_tokens, log_norm
from jobs.latent.noise import request_key, uniform
from latentctl.spec.sampling import SamplingSpec

CPU = torch.device("cpu")


def naive_kept(logits: np.ndarray, spec: SamplingSpec) -> np.ndarray:
    """Probabilities after temperature, top-k, top-p, min-p, in this order; float64, one row, full sorts."""
    scaled = logits.astype(np.float64) / spec.temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    if spec.top_k:
        probs[order[spec.top_k :]] = 0
        probs /= probs.sum()
    if spec.top_p < 1:
        total = 0.0
        for place, token in enumerate(order):
            if total >= spec.top_p:
                probs[order[place:]] = 0
                break
            total += probs[token]
        probs /= probs.sum()
    probs[probs < spec.min_p * probs.max()] = 0
    return probs / probs.sum()


FILTERS: list[dict[str, Any]] = [
    {"top_k": 1},
    {"top_k": 5},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 0.999},
    {"min_p": 0.1},
    {"top_k": 20, "top_p": 0.8},
    {"top_p": 0.9, "min_p": 0.05},
    {"top_k": 300, "top_p": 0.99, "min_p": 0.001, "temperature": 2.0},
    {"temperature": 0.3, "top_p": 0.7},
    {"top_k": 10_000},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("spread", [0.05, 1.0, 4.0])
def test_filters_keep_what_a_naive_implementation_keeps(filters: dict[str, Any], spread: float) -> None:
    """The flat case (spread 0.05) has a nucleus far larger than the candidates first looked at."""
    torch.manual_seed(1)
    logits = torch.randn(6, 1000) * spread
    spec = SamplingSpec(**{"temperature": 1.0, **filters})
    _, ids, kept = kept_tokens(logits / spec.temperature, Knobs.of([spec] * 6, CPU))
    for row in range(6):
        want = set(np.flatnonzero(naive_kept(logits[row].numpy(), spec)).tolist())
        assert set(ids[row][kept[row]].tolist()) == want


def test_rows_of_different_settings_share_a_batch() -> None:
    torch.manual_seed(2)
    logits = torch.randn(len(FILTERS) + 2, 300)
    specs = [
        SamplingSpec(),
        *(SamplingSpec(**{"temperature": 1.0, **f}) for f in FILTERS),
        SamplingSpec(temperature=1.5),
    ]
    u = torch.rand(len(specs), dtype=torch.float64)
    together, _ = draw(logits, Knobs.of(specs, CPU), u)
    alone = [draw(logits[i : i + 1], Knobs.of([s], CPU), u[i : i + 1])[0].item() for i, s in enumerate(specs)]
    assert together.tolist() == alone
    assert alone[0] == logits[0].argmax().item()


@pytest.mark.parametrize(
    "filters", [{}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.2}, {"temperature": 0.5}], ids=str
)
def test_the_draws_follow_the_distribution(filters: dict[str, Any]) -> None:
    """Chi-square on six tokens, 20,000 draws with the engine's own noise: below the 99.99 % quantile."""
    logits = torch.tensor([1.0, 0.3, -0.5, 0.9, -2.0, 0.0])
    spec = SamplingSpec(**{"temperature": 1.0, **filters})
    n = 20_000
    keys = torch.tensor([request_key(7, f"p{i}", 0) for i in range(n)])
    tokens, logps = draw(
        logits.expand(n, -1), Knobs.of([spec] * n, CPU), uniform(keys, torch.zeros_like(keys))
    )
    want = naive_kept(logits.numpy(), spec)
    counts = np.bincount(tokens.numpy(), minlength=6)
    assert counts[want == 0].sum() == 0
    live = want > 0
    statistic = (((counts - n * want) ** 2)[live] / (n * want[live])).sum()
    assert statistic < {1: 15.1, 2: 18.4, 3: 21.1, 4: 23.5, 5: 25.7}[int(live.sum()) - 1]
    plain = torch.log_softmax(logits, -1)
    assert torch.allclose(logps, plain[tokens], atol=1e-6)


def test_ties_do_not_depend_on_how_equal_values_are_sorted() -> None:
    logits = torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.0]])
    spec = SamplingSpec(temperature=1.0, top_k=2)
    drawn = {
        draw(logits, Knobs.of([spec], CPU), torch.tensor([u], dtype=torch.float64))[0].item()
        for u in (0.0, 0.5, 0.999999)
    }
    assert drawn == {1, 2, 3}


@pytest.mark.parametrize("u", [2.0**-53, 1 - 2.0**-53])
def test_the_ends_of_the_unit_interval_draw_a_kept_token(u: float) -> None:
    logits = torch.tensor([[-100.0, 0.0, 0.0, -100.0], [-torch.inf, 0.0, 0.0, -torch.inf]])
    for spec in (SamplingSpec(temperature=1.0), SamplingSpec(temperature=1.0, top_p=0.9)):
        tokens, _ = draw(logits, Knobs.of([spec] * 2, CPU), torch.tensor([u, u], dtype=torch.float64))
        assert set(tokens.tolist()) <= {1, 2}


def test_a_forced_token_replaces_the_draw_and_brings_its_own_log_prob() -> None:
    logits = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    tokens, logps = draw(logits, Knobs.of([SamplingSpec()] * 2, CPU), None, torch.tensor([0, -1]))
    assert tokens.tolist() == [0, 1]
    assert torch.allclose(logps, torch.log_softmax(logits, -1)[[0, 1], [0, 1]])


def test_uniforms_are_uniform_and_unrelated() -> None:
    keys = torch.tensor([request_key(0, f"p{i}", 0) for i in range(300)])
    u = uniform(keys[:, None], torch.arange(300)[None])
    assert u.dtype == torch.float64
    assert ((u > 0) & (u < 1)).all()
    counts = torch.histc(u.float(), 20, 0, 1)
    assert (((counts - 4500) ** 2) / 4500).sum() < 50.8  # chi-square, 19 degrees of freedom, 99.99 %
    between = np.corrcoef(u.flatten()[:-1].numpy(), u.flatten()[1:].numpy())[0, 1]
    across = np.corrcoef(u[:-1].flatten().numpy(), u[1:].flatten().numpy())[0, 1]
    assert abs(between) < 0.015
    assert abs(across) < 0.015


def test_consecutive_keys_do_not_share_a_shifted_sequence() -> None:
    golden = -7046029254386353131
    a, b = (uniform(torch.tensor([k]), torch.arange(50)) for k in (1234, 1234 + golden))
    assert not set(a.tolist()) & set(b.tolist())


def test_keys_are_the_same_on_every_machine() -> None:
    assert request_key(0, "a", 0) == 6713522722224487935
    assert uniform(torch.tensor([1]), torch.tensor([2])).item() == 0.4382839062845528
    assert len({request_key(s, i, k) for s in range(3) for i in ("a", "b", "a1") for k in range(12)}) == 108


@pytest.mark.parametrize("size", [5, 1024, 4096, 4097, 9000, 151_936])
def test_the_fast_argmax_and_log_sum_exp_are_torch_s_own_bit_for_bit(size: int) -> None:
    """Ties (few distinct values), a maximum in the last places, infinities and NaN among them."""
    torch.manual_seed(size)
    rows = torch.stack([torch.randn(size), torch.randint(0, 3, (size,)).float(), torch.zeros(size)])
    rows = torch.cat([rows, rows.clone(), rows.clone(), rows.clone()])
    rows[3:6, -1] = 99.0
    rows[6:8, size // 2] = torch.inf
    rows[8, size // 2] = torch.nan
    rows[9:, : size // 2] = -torch.inf
    assert argmax(rows).tolist() == rows.argmax(-1).tolist()
    assert torch.equal(log_norm(rows).nan_to_num(7.0), rows.logsumexp(-1).nan_to_num(7.0))
