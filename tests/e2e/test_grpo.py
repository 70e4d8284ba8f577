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


APART = """\
name: apart
model: {init: {arch: qwen3, hidden: 32, layers: 1, heads: 2, max_len: 128}, tokenizer: {kind: byte}}
dataset: {name: countdown-gen, limit: 64, options: {nums: [2], max_number: 20, target: [1, 30]}}
prompt: {template: plain, form: answer}
resources: {tasks: 2, cpus: 1}
stages:
  - name: rl
    method: grpo
    grpo:
      engine: transformers
      group_size: 4
      max_completion_len: 8
      rollout: {processes: 1, ahead: 1}
      rewards: {answer_format: 1.0}
    train: {lr: 1e-3, steps: 6, batch: 8, micro_batch: 8, save_every: 2, log_every: 1, precision: fp32}
  - {name: score, method: eval, from: rl, dataset: {limit: 4}, sampling: {max_new_tokens: 8}}
eval: {engine: transformers}
"""


def test_rollouts_without_room_are_refused_by_the_name_of_their_key(cli: Cli) -> None:
    done = cli("submit", cli.recipe(APART.replace("max_len: 128", "max_len: 64")), "--wait", code=1)
    assert "the prompt's 61 tokens and max_new_tokens (8) exceed the model's 64 positions" in done.err
    assert "| rl.grpo.max_completion_len\nhint: lower grpo.max_completion_len" in done.err


def test_a_job_whose_last_process_generates_for_the_first(cli: Cli) -> None:
    """The worker as the scheduler starts it: two processes, one of which never trains."""
    cli("submit", cli.recipe(APART, "apart.yaml"), "--wait", timeout=300)
    run = cli.run_dir("apart-")
    file = run / "jobs/rl/metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [r["staleness"] for r in rows if r["stage"] == "rl" and "loss" in r] == [0, 1, 1, 1, 1, 1]
    found = {p.parent.name: json.loads(p.read_text()) for p in run.glob("jobs/*/stages/*/result.json")}
    assert found["rl"]["steps"] == 6
    assert found["score"]["n"] == 4
    shown = cli("case", f"{run.name}/rl", "--json").json["data"]["case"]["sample"]
    assert shown["step"] == 6
    assert shown["version"] == 4
