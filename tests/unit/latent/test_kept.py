"""Kept tokens: the filters against a naive implementation, ties, mass, entropy, gradients, static form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.latent.inputs import soft
from jobs.latent.kept import Kept, entropies, keep
from jobs.latent.knobs import Knobs
from jobs.latent.largest import largest
from latentctl.spec.latent import SoftInput
from tests.unit.latent.rows import naive, row, soft_knobs

pytestmark = pytest.mark.heavy

FILTERS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 200, "top_p": 0.6},
    {"top_p": 0.5},
    {"top_p": 0.95, "temperature": 0.6},
    {"top_p": 0.95, "temperature": 3.0},
    {"min_p": 0.1},
    {"top_k": 20, "top_p": 0.8, "min_p": 0.05},
    {"top_p": 0.9, "max_topk": 1},
    {"top_p": 0.9, "max_topk": 5, "temperature": 1.7},
    {"top_p": 0.999, "min_p": 0.001, "max_topk": 64},
]


def dense(kept: Kept, size: int) -> Tensor:
    """Weights (N, V) of all tokens."""
    out = torch.zeros(len(kept.ids), size, dtype=kept.logp.dtype)
    return out.scatter_add(-1, kept.ids, kept.logp.exp())


@pytest.mark.parametrize("cap", ["own", "null"])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_weights_mass_and_entropy_are_those_of_a_naive_implementation(
    filters: dict[str, Any], cap: str
) -> None:
    """Flat rows have far more candidates than are looked at first. V = 3000 has groups and a remainder."""
    settings = {**filters, **({"max_topk": None} if cap == "null" else {})}
    spec = SoftInput(**settings)
    torch.manual_seed(1)
    logits = torch.randn(9, 3000) * torch.tensor([0.05, 0.5, 1, 1, 2, 3, 4, 6, 20])[:, None]
    knobs = soft_knobs(9, **settings)
    kept = keep(logits, knobs, knobs.width)
    got = dense(kept, 3000)
    for i in range(9):
        want, entropy, mass = naive(logits[i], spec)
        assert torch.allclose(got[i].double(), torch.from_numpy(want), atol=2e-6)
        assert kept.entropy[i].item() == pytest.approx(entropy, abs=1e-5, rel=1e-5)
        assert kept.mass[i].item() == pytest.approx(mass, abs=1e-6, rel=2e-5)
    assert torch.equal(kept.ids[:, 0], logits.argmax(-1))
    assert bool((kept.logp.diff(dim=-1)[:, :29].nan_to_num(0) <= 0).all()), "most likely first"


def test_the_normaliser_is_that_of_the_whole_vocabulary_not_of_the_tokens_looked_at() -> None:
    """A thousand tokens of almost no weight each: among the 30 looked at alone, one would reach top-p."""
    logits = torch.zeros(1, 1000)
    logits[0, 0] = 3.0  # exp(3) / (exp(3) + 999) = 0.0197
    knobs = soft_knobs(top_p=0.03)
    kept = keep(logits, knobs, knobs.width)
    share = torch.tensor(3.0).exp() / (torch.tensor(3.0).exp() + 999)
    want = 1 + int(torch.ceil((0.03 - share) / ((1 - share) / 999)))
    assert int((kept.logp > -torch.inf).sum()) == want
    assert kept.mass.item() == pytest.approx(float(share + (want - 1) * (1 - share) / 999), rel=1e-5)


@pytest.mark.parametrize(
    ("filters", "kept_ids"),
    [
        ({"top_k": 2}, {0, 2}),
        ({"top_p": 0.4}, {0, 2}),
        ({"min_p": 0.9, "top_k": 3}, {0, 2, 4}),
        ({"min_p": 0.9}, {0, 2, 4, 6}),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_of_tied_tokens_a_count_keeps_the_lowest_ids_and_min_p_keeps_all(
    filters: dict[str, Any], kept_ids: set[int], exact: bool
) -> None:
    logits = torch.full((1, 40), -20.0)
    logits[0, [6, 2, 4, 0]] = 1.0  # all of them among the 30 looked at
    knobs = soft_knobs(**filters)
    kept = keep(logits, knobs, None if exact else knobs.width)
    assert set(kept.ids[0][kept.logp[0] > -torch.inf].tolist()) == kept_ids
    assert kept.ids[0, 0] == 0


def test_filters_act_on_what_the_one_before_left() -> None:
    """p = .4 .3 .2 .1: top-k 2 leaves .57 .43, of which top-p .5 keeps one; top-p .5 alone keeps two."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    for filters, count in [({"top_p": 0.5}, 2), ({"top_k": 2, "top_p": 0.5}, 1), ({"top_k": 2}, 2)]:
        knobs = soft_knobs(**filters)
        assert int((keep(logits, knobs, knobs.width).logp > -torch.inf).sum()) == count
    knobs = soft_knobs(top_k=3, top_p=0.7, max_topk=1)  # the cap is below top-k, whose mass counts
    assert keep(logits, knobs, knobs.width).mass.item() == pytest.approx(0.4)


@pytest.mark.parametrize("far", [-60.0, -200.0, -torch.inf])
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.95}, {"max_topk": None}, {"temperature": 0.3}], ids=str)
def test_one_hot_logits_give_exactly_the_tokens_embedding(far: float, settings: dict[str, Any]) -> None:
    logits = torch.full((2, 500), far)
    logits[0, 3] = logits[1, 499] = 0.0
    embedding = torch.randn(500, 8)
    knobs = soft_knobs(2, **settings)
    kept = keep(logits, knobs, knobs.width)
    assert torch.equal(soft(kept.logp.exp(), kept.ids, embedding), embedding[[3, 499]])
    assert torch.allclose(kept.entropy, torch.zeros(2), atol=1e-6)


@pytest.mark.parametrize("size", [50, 2500])
def test_without_filters_and_cap_the_input_is_p_times_the_embedding(size: int) -> None:
    logits, embedding = torch.randn(3, size), torch.randn(size, 8)
    knobs = soft_knobs(3, max_topk=None)
    kept = keep(logits, knobs, knobs.width)
    assert torch.allclose(
        soft(kept.logp.exp(), kept.ids, embedding), logits.softmax(-1) @ embedding, atol=1e-6
    )
    assert torch.allclose(kept.mass, torch.ones(3), atol=1e-6)
    assert torch.equal(kept.ids[:, :5], logits.topk(5).indices)


@pytest.mark.parametrize("exact", [False, True])
def test_a_row_keeps_the_same_tokens_whatever_stands_beside_it(exact: bool) -> None:
    torch.manual_seed(2)
    each = [
        row({"kind": "soft", "top_p": 0.9, "temperature": 0.5}, trace=3),
        row({"kind": "soft", "top_k": 40, "top_p": 0.95, "max_topk": 10}),
        row("hidden", trace=5),
        row({"kind": "soft", "min_p": 0.01, "max_topk": None if exact else 100}),
        row("hidden", stop={"max_len": 9, "entropy": {"threshold": 1.0}}),
    ]
    logits = torch.randn(5, 1500) * 3
    order = torch.tensor([3, 1, 4, 0, 2])
    knobs = Knobs.of(each)
    together = keep(logits, knobs, knobs.width)
    mixed = Knobs.of([each[i] for i in order])
    moved = keep(logits[order], mixed, mixed.width)
    taken = keep(logits[order], knobs.take(order), knobs.width)
    assert torch.equal(dense(moved, 1500), dense(together, 1500)[order])
    assert torch.equal(dense(taken, 1500), dense(together, 1500)[order])
    for i, own in enumerate(each):
        one = Knobs.of([own])
        if not one.keeps:
            continue
        alone = keep(logits[i : i + 1], one, one.width)
        assert torch.equal(dense(alone, 1500)[0], dense(together, 1500)[i])
        if one.entropic:
            assert torch.allclose(alone.entropy, together.entropy[i], atol=1e-6)


def test_entropy_is_measured_at_the_temperature_that_the_rule_names() -> None:
    logits = torch.randn(2, 300) * 3
    rule = {"max_len": 9, "entropy": {"threshold": 1.0, "on": "input"}}
    model = {"max_len": 9, "entropy": {"threshold": 1.0, "on": "model"}}
    knobs = Knobs.of([row({"kind": "soft", "temperature": 0.5}, stop=s) for s in (rule, model)])
    got = keep(logits, knobs, knobs.width).entropy
    cold = torch.distributions.Categorical(logits=logits / 0.5).entropy()
    plain = torch.distributions.Categorical(logits=logits).entropy()
    assert torch.allclose(got, torch.stack([cold[0], plain[1]]), atol=1e-5)
    assert torch.allclose(entropies(logits, torch.tensor([0.5, 1.0])), got, atol=1e-6)


def test_what_no_row_asks_for_is_not_computed_and_not_a_number() -> None:
    knobs = Knobs.of([row({"kind": "soft"}), row({"kind": "soft", "top_k": 5, "top_p": 0.9})])
    assert (knobs.weighs, knobs.entropic) == (False, False)
    kept = keep(torch.randn(2, 100), knobs, knobs.width)
    assert bool(kept.mass.isnan().all())
    assert bool(kept.entropy.isnan().all())
    assert Knobs.of([row({"kind": "soft", "top_p": 0.9})]).weighs
    assert Knobs.of([row({"kind": "soft"}, trace=0)]).weighs


@pytest.mark.parametrize("settings", [{"top_p": 0.8}, {"top_k": 4}, {"max_topk": None}], ids=str)
def test_gradients_of_the_mixed_input_are_those_of_finite_differences(settings: dict[str, Any]) -> None:
    torch.manual_seed(3)
    knobs = soft_knobs(2, temperature=0.7, **settings)
    embedding = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    logits = (torch.randn(2, 12, dtype=torch.float64) * 2).requires_grad_()

    def mixed(logits: Tensor, embedding: Tensor) -> tuple[Tensor, ...]:
        kept = keep(logits, knobs, knobs.width)
        return soft(kept.logp.exp(), kept.ids, embedding), kept.entropy, kept.mass

    assert torch.autograd.gradcheck(mixed, (logits, embedding))


def test_the_largest_logits_are_found_among_groups() -> None:
    torch.manual_seed(4)
    for size in (100, 2_000, 16_411, 40_000):
        logits = torch.randn(3, size)
        logits[0, -1] = 50.0  # in the remainder
        logits[1, 640:704] += 9.0  # all of one group
        values, ids = largest(logits, 30)
        want = logits.topk(30)
        assert torch.equal(values, want.values)
        assert torch.equal(ids, want.indices)
    assert largest(torch.randn(2, 5), 30)[0].shape == (2, 5)


def test_an_exact_search_starts_small() -> None:
    """A nucleus of a few tokens needs no sort of the vocabulary."""
    knobs = soft_knobs(top_p=0.9, max_topk=None)
    assert (knobs.width, knobs.look) == (None, 1)
    assert keep(torch.arange(5000.0)[None], knobs, None).ids.shape == (1, 3)


def test_a_vocabulary_smaller_than_k_is_kept_whole() -> None:
    knobs = soft_knobs(max_topk=1000)
    assert keep(torch.randn(1, 10), knobs, knobs.width).ids.shape == (1, 10)
