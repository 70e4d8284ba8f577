"""GRPO as a whole: it learns, it validates, it goes on after a stop as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpo_world as world
import pytest
import torch
from grpo_world import harness
from safetensors.torch import load_file

pytestmark = pytest.mark.heavy


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return harness.write_rows(tmp_path / "rows.jsonl", 12)


def run(folder: Path, recipe: dict[str, Any], **case: Any) -> harness.Case:
    made = harness.Case(str(folder), recipe, **case)
    harness.run_case(made)
    return made


def weights(case: harness.Case) -> dict[str, torch.Tensor]:
    return load_file(case.stage / "model" / "model.safetensors")


def test_the_reward_rises(tmp_path: Path, rows: Path) -> None:
    done = run(tmp_path / "run", world.recipe(rows, train={"steps": 25, "lr": 1e-2}))
    rewards = [r["reward"] for r in done.rows() if "reward" in r]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1
    assert done.result()["steps"] == 25


def test_some_rollouts_are_kept_for_people_once_each_over_a_kill(tmp_path: Path, rows: Path) -> None:
    recipe = world.recipe(rows, train={"steps": 6, "save_every": 2, "log_every": 2})
    whole = run(tmp_path / "whole", recipe)
    with pytest.MonkeyPatch.context() as patch:
        _die_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", recipe)
    torn = tmp_path / "killed" / whole.stage.relative_to(tmp_path / "whole") / "rollouts.jsonl"
    with torn.open("a") as f:
        f.write('{"id": "torn')
    again = run(tmp_path / "killed", recipe, attempt=2)
    kept = [json.loads(line) for line in (whole.stage / "rollouts.jsonl").read_text().splitlines()]
    assert [(r["step"], r["index"]) for r in kept] == [(s, i) for s in (1, 3, 5) for i in range(4)]
    assert len({r["id"] for r in kept}) == 3
    for row in kept:
        assert row["version"] == row["step"] - 1
        assert row["reward"] == row["rewards"]["favourite"]
        assert f"favourite {row['reward']:.3g}" in row["reason"]
        assert row["verdict"] in ("correct", "wrong")
    assert (again.stage / "rollouts.jsonl").read_text() == (whole.stage / "rollouts.jsonl").read_text()


def _die_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    from jobs.train.engine import Engine

    plain, done = Engine.step, 0

    def step(self: Engine, batches: Any) -> Any:
        nonlocal done
        done += 1
        if done > steps:
            raise KeyboardInterrupt
        return plain(self, batches)

    patch.setattr(Engine, "step", step)


def test_a_stop_between_steps_and_a_resume_change_nothing(tmp_path: Path, rows: Path) -> None:
    recipe = world.recipe(rows)
    whole = run(tmp_path / "whole", recipe)
    stopped = run(tmp_path / "stopped", recipe, stop_at=2)
    assert stopped.result() == harness.PREEMPTED
    resumed = run(tmp_path / "stopped", recipe, attempt=2)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert whole.losses() == resumed.losses()


def test_a_resume_within_a_set_trains_on_the_same_rollouts(tmp_path: Path, rows: Path) -> None:
    recipe = world.recipe(rows, grpo={"minibatches": 2, "passes": 2}, train={"steps": 8, "batch": 8})
    whole = run(tmp_path / "whole", recipe)
    run(tmp_path / "stopped", recipe, stop_at=3)
    resumed = run(tmp_path / "stopped", recipe, attempt=2)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_validation_counts_accuracy_and_reward_without_touching_training(tmp_path: Path, rows: Path) -> None:
    plain = run(tmp_path / "plain", world.recipe(rows))
    recipe = world.recipe(
        rows,
        train={"eval_every": 2, "keep": {"best": "reward"}},
        validation=harness.dataset(rows),
        sampling={"temperature": 1.0, "samples": 2, "max_new_tokens": 10},
    )
    validated = run(tmp_path / "validated", recipe)
    found = [r for r in validated.rows() if "validation_reward" in r]
    assert [r["step"] for r in found] == [2, 4]
    assert all(0 <= r["validation_accuracy"] <= 1 and 0 < r["validation_reward"] <= 1 for r in found)
    assert plain.losses() == validated.losses()
    assert validated.result()["best"]["metric"] == "reward"


def test_searched_rollouts_are_trained_on_and_their_share_falls(tmp_path: Path, rows: Path) -> None:
    tree = {"min_prob": 0.001, "max_gap": None, "look_ahead": [], "share": {0: 1.0, 1: 0.5, 2: 0.0}}
    done = run(tmp_path / "run", world.recipe(rows, grpo={"tree": tree}, train={"steps": 3}))
    shares = [r["searched"] for r in done.rows() if "searched" in r]
    assert shares == [1.0, 0.5, 0.0]
    assert all(r["mismatch"] < 1e-3 for r in done.rows() if "mismatch" in r)
