"""Trainings small enough to be broken off in every way, here and on Slurm: SFT, and GRPO with rollouts in
flight."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.e2e.conftest import Cli, losses

TRAIN = """\
name: drill
model: {init: {arch: gpt2, hidden: 32, layers: 1, heads: 2, max_len: 128}, tokenizer: {kind: word}}
dataset: {name: shell-game, limit: 256, options: {cups: 4, swaps: 3}}
prompt: {template: plain, form: coconut}
train: {lr: 1e-3, steps: 60, batch: 16, micro_batch: 8, save_every: 10, zero_stage: 2}
resources: {tasks: 2, time: 10m}
stages:
  - {name: sft, method: sft}
"""
ROLLOUTS = """\
name: drill
model: {{init: {{arch: qwen3, hidden: 32, layers: 1, heads: 2, max_len: 128}}, tokenizer: {{kind: word}}}}
dataset: {{name: shell-game, limit: 64, options: {{cups: 4, swaps: 3}}}}
prompt: {{template: plain, form: coconut}}
{latent}sampling: {{temperature: 1.0, max_new_tokens: 8}}
plugins: [letters.py]
train: {{lr: 1e-3, steps: {steps}, batch: 16, micro_batch: 8, save_every: 20, precision: fp32}}
resources: {{tasks: 3, time: 10m}}
stages:
  - name: rl
    method: grpo
    grpo:
      engine: transformers
      precision: fp32
      group_size: 4
      max_completion_len: 8
      minibatches: 2
      rewards: {{correctness: 0.0, own: {{letters: 1.0}}}}
      latent_loss: {{reduction: mean_over_dims}}
      rollout: {{processes: 1, ahead: {ahead}}}
"""
"""Two processes train, one generates; with `ahead: 1` rollouts are under way while weights change."""
LETTERS = """\
from jobs.grade.rewards import register


class Letters:
    name = "letters"
    pooled = False

    def reward(self, attempt, verdict):
        return sum(c in "abcde" for c in attempt.text) / max(1, len(attempt.text))


register(Letters())
"""
LATENT = 'latent: {input: soft, markers: {start: "#", end: "."}, stop: 2, noise: {kind: concrete}}\n'
RECIPES = {
    "sft": TRAIN,
    "rl": ROLLOUTS.format(latent=LATENT, ahead=0, steps=200),
    "rl-ahead": ROLLOUTS.format(latent="", ahead=1, steps=200),
    "rl-long": ROLLOUTS.format(latent=LATENT, ahead=0, steps=600),
}


def recipe(cli: Cli, kind: str) -> str:
    (cli.folder / "letters.py").write_text(LETTERS)
    return cli.recipe(RECIPES[kind])


def weights(cli: Cli, pattern: str) -> dict[str, str]:
    (folder,) = cli.runs.glob(f"{pattern}/jobs/*/stages/*/model")
    files = sorted(folder.glob("*.safetensors"))
    assert files
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def under_way(run: Path, kind: str) -> bool:
    """Whether it has trained for a while, and will for a while yet."""
    rows = 14 if kind == "sft" else 50
    return any(len(path.read_text().splitlines()) > rows for path in run.glob("jobs/*/metrics.jsonl"))


def assert_same(broken: Cli, whole: Cli, kind: str) -> None:
    """The losses of all steps and the final weights, bit for bit; and that there was a break."""
    attempts = list(broken.runs.glob("broken-*/jobs/*/attempts/*"))
    assert len(attempts) > 1, "it was over before it was interrupted"
    stage = "sft" if kind == "sft" else "rl"
    assert losses(broken, "broken-*", stage) == losses(whole, "whole-*", stage)
    assert weights(broken, "broken-*") == weights(whole, "whole-*")
