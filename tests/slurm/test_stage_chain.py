"""Real daemons: a Coconut curriculum as a chain of jobs, an evaluation after each of its stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Cli, make_cli

pytestmark = [pytest.mark.heavy]

CHAIN = """
name: chain
model:
  init: {arch: llama, hidden: 32, layers: 1, heads: 2, max_len: 128}
  tokenizer: {kind: word}
dataset: {name: shell-game, options: {cups: 3, swaps: 4}, limit: 64}
prompt: {form: coconut}
train: {lr: 1e-3, batch: 16, micro_batch: 8, log_every: 1, zero_stage: 2}
sampling: {max_new_tokens: 40}
eval: {engine: transformers}
resources: {nodes: 2, tasks: 1, time: 10m}
jobs: per_stage
stages:
  - method: coconut
    coconut:
      latents_per_step: 1
      first_stage: 1
      max_stage: 1
      optimizer_steps: 2^2
      eval_each: {dataset: {limit: 8}, resources: {nodes: 1}}
"""


def test_a_curriculum_is_a_chain_of_jobs_each_with_its_evaluation(tmp_path: Path, devbox) -> None:
    cli: Cli = make_cli(tmp_path)
    cli.env["SLURM_CONF"] = str(devbox.conf)
    done = cli("submit", cli.recipe(CHAIN, "chain.yaml"), "--cluster", "devbox", "--wait", timeout=280)
    run = cli.run_dir("chain-")
    names = [f"coconut.{s}{end}" for s in (1, 2) for end in ("", "-eval")]
    assert sorted(p.name for p in (run / "jobs").iterdir()) == sorted(names)
    for stage in (1, 2):
        trained = run / "jobs" / f"coconut.{stage}" / "stages" / f"coconut.{stage}"
        carried = json.loads((trained / "model" / "latent.json").read_text())
        assert (carried["coconut"]["stage"], carried["input"]["kind"]) == (stage, "hidden")
        scored = run / "jobs" / f"coconut.{stage}-eval" / "stages" / f"coconut.{stage}-eval"
        result = json.loads((scored / "result.json").read_text())
        assert (result["n"], result["latents_mean"]) == (8, 1)
        assert json.loads((trained / "result.json").read_text())["world_size"] == 2
    assert done.out.count("coconut.") >= 2
