"""Advantages, aggregation, mismatch and entropy masks against hand values and plain loops."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.rl.advantages import advantages, zero_variance
from jobs.rl.aggregate import scales
from jobs.rl.entropy import threshold
from jobs.rl.mismatch import correction
from jobs.rl.policy import k3, surrogate
from latentctl.spec.grpo import GrpoSettings, MismatchSpec

KINDS = ("group_std", "group", "leave_one_out", "batch_std")


def naive(rewards: list[float], groups: list[int], counts: list[bool], kind: str) -> list[float]:
    """The formulas, row by row."""
    every = [r for r, c in zip(rewards, counts, strict=True) if c]
    found = []
    for i, (r, g) in enumerate(zip(rewards, groups, strict=True)):
        mine = [x for x, h, c in zip(rewards, groups, counts, strict=True) if h == g and c]
        if not counts[i] or len(mine) < 2 or len(set(mine)) == 1:
            found.append(0.0)
            continue
        mean = sum(mine) / len(mine)
        if kind == "group":
            found.append(r - mean)
        elif kind == "group_std":
            found.append((r - mean) / (statistics.stdev(mine) + 1e-4))
        elif kind == "batch_std":
            found.append((r - mean) / (statistics.stdev(every) + 1e-4))
        else:
            others = list(mine)
            others.remove(r)
            found.append(r - sum(others) / len(others))
    return found


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.3]), st.booleans()), min_size=4, max_size=16),
    st.integers(1, 4),
    st.sampled_from(KINDS),
)
def test_they_are_what_the_formulas_say(rows: list[tuple[float, bool]], size: int, kind: str) -> None:
    rewards, counts = [r for r, _ in rows], [c for _, c in rows]
    groups = [i // size for i in range(len(rows))]
    found = advantages(torch.tensor(rewards), torch.tensor(groups), torch.tensor(counts), kind)  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx(naive(rewards, groups, counts, kind), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_they_sum_to_zero_in_each_group_and_a_flat_group_gets_exactly_nothing(kind: str) -> None:
    rewards = torch.tensor([1.0, 0.0, 0.3, 0.0, 0.7, 0.7, 0.7, 0.7])
    groups, counts = torch.arange(8) // 4, torch.ones(8, dtype=torch.bool)
    found = advantages(rewards, groups, counts, kind)  # type: ignore[arg-type]
    assert float(found[:4].sum()) == pytest.approx(0.0, abs=1e-9)
    assert found[4:].tolist() == [0.0] * 4
    assert zero_variance(rewards, groups, counts).tolist() == [False, True]


def test_leave_one_out_of_two_is_their_difference() -> None:
    found = advantages(torch.tensor([0.9, 0.2]), torch.zeros(2).long(), torch.ones(2).bool(), "leave_one_out")
    assert found.tolist() == pytest.approx([0.7, -0.7])


def test_what_does_not_count_changes_nothing_for_the_others() -> None:
    rewards = torch.tensor([1.0, 0.0, 99.0])
    counts = torch.tensor([True, True, False])
    for kind in KINDS:
        found = advantages(rewards, torch.zeros(3).long(), counts, kind)  # type: ignore[arg-type]
        alone = advantages(rewards[:2], torch.zeros(2).long(), counts[:2], kind)  # type: ignore[arg-type]
        assert found.tolist() == [*alone.tolist(), 0.0]


def test_groups_of_which_all_but_one_fell_out_teach_nothing() -> None:
    counts = torch.tensor([True, False, False])
    assert zero_variance(torch.tensor([1.0, 0, 0]), torch.zeros(3).long(), counts).tolist() == [True]


LENGTHS = [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0, 10.0]]
"""Losses of the positions of four samples."""


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("dapo", 55 / 10),
        ("grpo", (1.5 + 3 + 5 + 8.5) / 4),
        ("dr_grpo", 55 / (4 * 20)),
        ("bnpo", (6 / 3 + 49 / 7) / 2),
    ],
)
def test_an_aggregation_by_hand(kind: str, wanted: float) -> None:
    n = torch.tensor([float(len(r)) for r in LENGTHS])
    scale, weight = scales(n, torch.ones(4).bool(), kind, max_len=20, local_rows=2)  # type: ignore[arg-type]
    sums = np.array([sum(r) for r in LENGTHS])
    assert float((scale.numpy() * sums).sum() / weight.sum()) == pytest.approx(wanted)


@pytest.mark.parametrize("kind", ["dapo", "grpo", "dr_grpo", "bnpo"])
def test_rows_that_are_left_out_change_neither_sum_nor_weight(kind: str) -> None:
    n = torch.tensor([2.0, 5.0, 3.0, 4.0])
    active = torch.tensor([True, False, True, True])
    scale, weight = scales(n, active, kind, max_len=20, local_rows=4)  # type: ignore[arg-type]
    alone = scales(n[active], active[active], kind, max_len=20, local_rows=3)  # type: ignore[arg-type]
    assert scale[active].tolist() == pytest.approx(alone[0].tolist())
    assert weight[active].tolist() == pytest.approx(alone[1].tolist())
    assert float(scale[1]) == float(weight[1]) == 0.0


def test_surrogate_by_hand() -> None:
    """ρ = 2, 0.5, 1.1, 4 with both signs of the advantage, clipped to [0.8, 1.28], at most 3."""
    ratios = [2.0, 0.5, 1.1, 4.0]
    settings = GrpoSettings(clip_low=0.2, clip_high=0.28, clip_delta=3.0)
    for sign in (1.0, -1.0):
        new = torch.tensor([math.log(r) for r in ratios])
        made = surrogate(new, torch.zeros(4), torch.full((4,), sign), torch.arange(4), 4, settings)
        wanted = [-min(min(r, 3.0) * sign, min(max(r, 0.8), 1.28) * sign) for r in ratios]
        assert made.loss.tolist() == pytest.approx(wanted)
        assert made.high.tolist() == [sign > 0, False, False, sign > 0]
        assert made.low.tolist() == [False, sign < 0, False, False]


def test_the_ratio_of_a_sequence_is_the_geometric_mean_of_its_positions() -> None:
    gaps = torch.tensor([0.3, -0.1, 0.2, 0.5], requires_grad=True)
    settings = GrpoSettings(ratio="sequence", clip_low=0.9, clip_high=9.0)
    rows = torch.tensor([0, 0, 0, 1])
    made = surrogate(gaps, torch.zeros(4), torch.ones(4), rows, 2, settings)
    first = math.exp((0.3 - 0.1 + 0.2) / 3)
    assert made.ratio.tolist() == pytest.approx([first] * 3 + [math.exp(0.5)])
    made.loss.sum().backward()
    assert gaps.grad is not None
    assert gaps.grad.tolist() == pytest.approx([-first] * 3 + [-math.exp(0.5)])


def test_equal_policies_have_ratio_one_and_the_plain_gradient() -> None:
    logp = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    advantage = torch.tensor([1.0, -2.0, 0.5])
    for ratio in ("token", "sequence"):
        logp.grad = None
        settings = GrpoSettings(ratio=ratio)  # type: ignore[arg-type]
        made = surrogate(logp, logp.detach(), advantage, torch.arange(3), 3, settings)
        assert made.ratio.tolist() == [1.0, 1.0, 1.0]
        made.loss.sum().backward()
        assert logp.grad is not None
        assert logp.grad.tolist() == (-advantage).tolist()


def test_k3_is_never_negative_and_its_mean_is_the_divergence() -> None:
    p, q = torch.tensor([0.7, 0.3]), torch.tensor([0.4, 0.6])
    each = k3(p.log(), q.log())
    assert (each >= 0).all()
    assert float((p * each).sum()) == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-6)


W = [0.2, 0.5, 1.0, 2.5, 4.0]


@pytest.mark.parametrize(
    ("mode", "tokens", "samples"),
    [
        ("none", [1, 1, 1, 1, 1], [1, 1]),
        ("token_truncate", [0.2, 0.5, 1, 2.5, 3], [1, 1]),
        ("token_mask", [0, 0.5, 1, 2.5, 0], [1, 1]),
        ("sequence_mask", [1, 1, 1, 1, 1], [0, 0]),
    ],
)
def test_a_correction_by_hand(mode: str, tokens: list[float], samples: list[float]) -> None:
    """Two samples: w of 0.2, 0.5, 1 (product 0.1) and of 2.5, 4 (10); cap 3."""
    trainer = torch.tensor([math.log(w) for w in W]) - 1.0
    spec = MismatchSpec(mode=mode)  # type: ignore[arg-type]
    made = correction(trainer, torch.full((5,), -1.0), torch.tensor([0, 0, 0, 1, 1]), 2, spec)
    assert made.tokens.tolist() == pytest.approx(tokens)
    assert made.samples.tolist() == samples
    assert made.gap.exp().tolist() == pytest.approx(W)


def test_a_sequence_within_the_cap_is_kept() -> None:
    trainer = torch.tensor([math.log(2.0), math.log(0.4)])
    made = correction(trainer, torch.zeros(2), torch.zeros(2).long(), 1, MismatchSpec(mode="sequence_mask"))
    assert made.samples.tolist() == [1.0]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 1.0])
def test_the_share_of_highest_entropy(share: float) -> None:
    entropies = torch.rand(1000, generator=torch.Generator().manual_seed(1))
    limit = threshold(entropies, share)
    assert int((entropies >= limit).sum()) == round(share * 1000)


def test_ties_at_the_threshold_are_all_in() -> None:
    assert threshold(torch.tensor([1.0, 2.0, 2.0, 2.0]), 0.25) == 2.0
    assert threshold(torch.tensor([]), 0.5) == -math.inf


def test_every_split_of_every_aggregation_is_the_same() -> None:
    """Scales and weights belong to rows: any sharing out sums to the same."""
    n = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
    loss = torch.arange(8.0)
    for kind in ("dapo", "grpo", "dr_grpo", "bnpo"):
        scale, weight = scales(n, torch.ones(8).bool(), kind, max_len=10, local_rows=2)  # type: ignore[arg-type]
        whole = (scale * loss).sum() / weight.sum()
        for ranks, steps in itertools.product((1, 2, 4), (1, 2)):
            parts = torch.arange(8).view(steps * ranks, -1)
            top = sum((scale[p] * loss[p]).sum() for p in parts)
            assert float(top / sum(weight[p].sum() for p in parts)) == pytest.approx(float(whole))
