"""When noise falls: threshold, running budget, floor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from rows import begun, row
from torch import Tensor

from jobs.latent.knobs import CONCRETE, GAUSSIAN, QUIET, Knobs
from jobs.latent.step import Step, step
from latentctl.spec.disturbance import DisturbanceSpec

V, D, STEPS = 12, 4, 60
EMBEDDING = torch.randn(V, D, generator=torch.Generator().manual_seed(3))
CONCRETE_NOISE = {"kind": "concrete", "temperature": 0.5}


def forced(
    disturbance: DisturbanceSpec | None, noise: Any, *, input: Any = "soft", key: int = 1
) -> list[Step]:
    """Steps of one row whose logits and hidden states are given, whatever it is fed."""
    one = row(input, noise=noise, key=key, fixed=1000)
    knobs = Knobs.of(
        [one.__class__(one.spec, one.end, one.start, one.fixed, one.token, key, None, disturbance, True)]
    )
    rng = torch.Generator().manual_seed(7)
    state, found = begun(knobs, D), []
    for _ in range(STEPS):
        heat = torch.rand(1, 1, generator=rng) * 4 + 0.05
        logits = torch.randn(1, V, generator=rng) * heat
        hidden = torch.randn(1, D, generator=rng)
        found.append(step(logits, hidden, state, knobs, EMBEDDING))
        state = found[-1].state
    return found


def disturbed(steps: list[Step]) -> list[bool]:
    return [bool(s.thought.noised) for s in steps]


def test_a_higher_threshold_disturbs_fewer_steps() -> None:
    """Teacher-forced and with the budget off: the same steps, or fewer."""
    before: set[int] | None = None
    shares = []
    for threshold in (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 2.49):
        there = {
            i
            for i, d in enumerate(
                disturbed(forced(DisturbanceSpec(entropy_threshold=threshold), CONCRETE_NOISE))
            )
            if d
        }
        assert before is None or there <= before
        before = there
        shares.append(len(there) / STEPS)
    assert shares[0] == 1.0
    assert shares[-1] == 0.0
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) > 4


def test_the_gate_looks_at_the_whole_distribution_at_the_inputs_temperature() -> None:
    spec = DisturbanceSpec(entropy_threshold=1.2)
    soft = {"kind": "soft", "temperature": 0.7, "max_topk": 2}
    for one in forced(spec, CONCRETE_NOISE, input=soft):
        assert bool(one.thought.noised) == (float(one.thought.entropy) > 1.2)
    rng = torch.Generator().manual_seed(7)
    heat = torch.rand(1, 1, generator=rng) * 4 + 0.05
    p = (torch.randn(1, V, generator=rng) * heat / 0.7).softmax(-1)
    found = forced(spec, CONCRETE_NOISE, input=soft)[0].thought.entropy
    torch.testing.assert_close(found, -(p * p.log()).sum(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.34, 0.5])
def test_the_budget_is_never_exceeded_and_is_used(ratio: float) -> None:
    there = disturbed(forced(DisturbanceSpec(max_ratio=ratio), CONCRETE_NOISE))
    for t in range(STEPS):
        assert sum(there[:t]) < ratio * (t + 1) or not there[t]
    assert sum(there) >= int(ratio * STEPS)
    assert there[0]


def test_without_a_block_every_step_is_disturbed() -> None:
    assert all(disturbed(forced(None, CONCRETE_NOISE)))


def test_what_is_not_disturbed_is_as_it_would_be_without_noise() -> None:
    plain = forced(None, None)
    noisy = forced(DisturbanceSpec(entropy_threshold=1.2), CONCRETE_NOISE)
    same = [torch.equal(a.x, b.x) for a, b in zip(plain, noisy, strict=True)]
    assert same == [not d for d in disturbed(noisy)]
    kinds = [int(s.thought.kind) for s in noisy]
    assert set(kinds) == {QUIET, CONCRETE}


def test_a_floor_falls_on_all_other_steps() -> None:
    spec = DisturbanceSpec(entropy_threshold=1.2, floor=0.01)
    plain = forced(None, None)
    noisy = forced(spec, CONCRETE_NOISE)
    for a, b in zip(plain, noisy, strict=True):
        if bool(b.thought.noised):
            assert int(b.thought.kind) == CONCRETE
            assert float(b.thought.sigma) == 0.0
        else:
            assert int(b.thought.kind) == GAUSSIAN
            rms = float(a.x.square().mean().sqrt())
            assert float(b.thought.sigma) == pytest.approx(0.01 * rms, rel=1e-5)
            assert 0 < float((a.x - b.x).abs().max()) < 0.06 * rms


def test_a_floor_stands_beside_normal_noise_on_the_input() -> None:
    spec = DisturbanceSpec(entropy_threshold=1.2, floor=0.01)
    noisy = forced(spec, {"kind": "gaussian", "strength": 0.3, "scale": "absolute"}, input="hidden")
    for one in noisy:
        assert int(one.thought.kind) == GAUSSIAN
        assert (float(one.thought.sigma) == pytest.approx(0.3)) == bool(one.thought.noised)


def test_a_floor_alone_disturbs_nothing_and_leaves_no_step_quiet() -> None:
    noisy = forced(DisturbanceSpec(floor=0.02), None, input="hidden")
    assert not any(disturbed(noisy))
    assert {int(s.thought.kind) for s in noisy} == {GAUSSIAN}


def test_rows_of_different_disturbances_share_a_batch() -> None:
    """Each row comes out as it does alone, in any order."""
    specs = [None, DisturbanceSpec(entropy_threshold=1.0), DisturbanceSpec(max_ratio=0.2, floor=0.05)]
    noises = [None, CONCRETE_NOISE, {"kind": "gaussian", "strength": 0.1}]
    rows_ = []
    for i, (spec, noise) in enumerate(zip(specs, noises, strict=True)):
        one = row("soft", noise=noise, fixed=1000)
        rows_.append(replace(one, key=i, disturbance=spec, record=True))

    def run(order: list[int]) -> dict[int, Tensor]:
        knobs = Knobs.of([rows_[i] for i in order])
        rng = torch.Generator().manual_seed(5)
        state, fed = begun(knobs, D), []
        for _ in range(10):
            logits, hidden = torch.randn(3, V, generator=rng) * 2, torch.randn(3, D, generator=rng)
            out = step(logits[order], hidden[order], state, knobs, EMBEDDING)
            state = out.state
            fed.append(out.x)
        return {i: torch.stack(fed)[:, place] for place, i in enumerate(order)}

    there, other = run([0, 1, 2]), run([2, 0, 1])
    for i in range(3):
        torch.testing.assert_close(there[i], other[i])
