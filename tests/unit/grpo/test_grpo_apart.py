"""Rollouts from processes of their own: real ones, beside real trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpo_world as world
import pytest
import torch
from grpo_world import harness
from safetensors.torch import load_file

pytestmark = pytest.mark.heavy


def recipe(rows: Path, processes: int, *, ahead: int = 0, **stage: Any) -> dict[str, Any]:
    """Latent steps above a measured threshold, two updates on each set, problems drawn anew, validation."""
    grpo = {
        "minibatches": 2,
        "zero_variance": "resample",
        "resample_rounds": 2,
        "latent_loss": {"reduction": "mean_over_dims"},
        "rollout": {"processes": processes, "ahead": ahead},
    }
    train = {"steps": 6, "batch": 8, "micro_batch": 4, "eps": 1e-3, "save_every": 3, "eval_every": 4}
    return world.recipe(
        rows,
        grpo=grpo,
        train={**train, **stage},
        validation=harness.dataset(rows),
        sampling={"temperature": 1.0, "max_new_tokens": 10},
        latent=world.LATENT["latent"],
        disturbance={"entropy_threshold": {"target_ratio": 0.5, "problems": 6}},
    )


def weights(case: harness.Case) -> dict[str, torch.Tensor]:
    return load_file(case.stage / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 12)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> harness.Case:
    """One process that does everything."""
    folder = tmp_path_factory.mktemp("together")
    case = harness.Case(str(folder / "run"), recipe(rows, 0))
    harness.launch(folder, [case], size=1)
    return case


@pytest.mark.parametrize(("trainers", "generators"), [(1, 2), (2, 1)])
def test_a_run_is_the_same_wherever_its_rollouts_are_made(
    tmp_path: Path, rows: Path, together: harness.Case, trainers: int, generators: int
) -> None:
    case = harness.Case(str(tmp_path / "run"), recipe(rows, generators))
    harness.launch(tmp_path, [case], size=trainers + generators)
    for key, value in weights(together).items():
        torch.testing.assert_close(weights(case)[key], value, atol=2e-6, rtol=1e-4, msg=key)
    for a, b in zip(together.rows(), case.rows(), strict=True):
        for number in ("loss", "reward", "accuracy", "disturbed", "staleness", "mismatch"):
            assert (number in a) == (number in b), number
            if number in a:
                assert a[number] == pytest.approx(b[number], rel=1e-3, abs=1e-5), number
    assert not (case.stage / "rollouts").exists()  # what was kept for a resume is gone


@pytest.mark.parametrize("victim", [0, 1], ids=["trainer", "generator"])
def test_a_kill_costs_nothing_but_time(tmp_path: Path, rows: Path, victim: int) -> None:
    undisturbed = harness.Case(str(tmp_path / "undisturbed"), recipe(rows, 1))
    harness.launch(tmp_path, [undisturbed], size=2)
    when = {"kill_sample": 40} if victim else {"kill_at": 4}
    case = harness.Case(str(tmp_path / "run"), recipe(rows, 1), on_rank=victim, **when)
    harness.launch(tmp_path, [case], size=2, killed=True)
    again = harness.Case(case.root, case.experiment, attempt=2)
    harness.launch(tmp_path, [again], size=2)
    for key, value in weights(undisturbed).items():
        assert torch.equal(weights(again)[key], value), key


def test_one_set_ahead_trains_on_rollouts_of_the_policy_before(tmp_path: Path, rows: Path) -> None:
    said = recipe(rows, 1, ahead=1, steps=8)
    said["stages"][0]["grpo"]["zero_variance"] = "drop"  # what is drawn again is drawn from the policy now
    case = harness.Case(str(tmp_path / "run"), said)
    stopped = harness.Case(str(tmp_path / "stopped"), case.experiment, stop_at=3)
    again = harness.Case(stopped.root, case.experiment, attempt=2)
    for each in (case, stopped, again):
        harness.launch(tmp_path, [each], size=2)
    told = [r["staleness"] for r in case.rows() if "loss" in r]
    assert told == [0, 0, 2, 2, 2, 2, 2, 2]  # in optimizer steps: a set is two of them
    assert stopped.result() == harness.PREEMPTED
    steps = [(r["step"], r["staleness"]) for r in again.rows() if "loss" in r]
    assert [s for s, _ in steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(stale <= 2 for _, stale in steps)
