"""Latent CoT RL from nothing, as a person would run it: a model learns to think two latent steps, then GRPO
with noise on them makes it right more often."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from tests.e2e.conftest import Cli

pytestmark = pytest.mark.heavy
RECIPE = Path(__file__).parents[2] / "recipes" / "tiny-countdown-grpo.yaml"


def learned(cli: Cli, *options: str, timeout: float) -> dict[str, Any]:
    """Accuracy before and after, and the mean reward of the first and the last thirty steps."""
    cli("submit", str(RECIPE), "--wait", *options, timeout=timeout)
    (run,) = cli.runs.glob("tiny-countdown-grpo-*")
    found = {p.parent.name: json.loads(p.read_text()) for p in run.glob("jobs/*/stages/*/result.json")}
    (file,) = run.glob("jobs/*/metrics.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rewards = [r["reward"] for r in rows if r["stage"] == "rl" and "reward" in r]
    return {
        "accuracy": (found["before"]["accuracy"], found["after"]["accuracy"]),
        "reward": (mean(rewards[:3]), mean(rewards[-3:])),
        "disturbed": found["rl"]["disturbed"],
    }


def test_a_quarter_of_the_recipe_learns_already(cli: Cli) -> None:
    found = learned(cli, "--set", "stages.rl.train.steps=70", timeout=500)
    before, after = found["accuracy"]
    assert after >= before + 0.06, found
    first, last = found["reward"]
    assert last >= first + 0.05, found
    assert found["disturbed"] == 1.0  # every latent step of a rollout, as the recipe leaves it


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_reward_and_accuracy_rise_whatever_the_seed(cli: Cli, seed: int) -> None:
    found = learned(cli, "--set", f"seed={seed}", timeout=900)
    before, after = found["accuracy"]
    assert after >= before + 0.12, found
    first, last = found["reward"]
    assert last >= first + 0.15, found
