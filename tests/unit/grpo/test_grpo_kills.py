"""A kill -9 at any moment of a GRPO training, and a retry: the weights are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import grpo_world as world
import pytest
import torch
from grpo_world import harness
from safetensors.torch import load_file

pytestmark = pytest.mark.heavy

SCRIPT = Path(__file__).with_name("killing.py")


def attempt(case: harness.Case, moment: int) -> tuple[int, int]:
    """Exit code and how many moments passed (0: unknown, it was killed)."""
    said = Path(case.root) / f"case-{case.attempt}.json"
    said.parent.mkdir(parents=True, exist_ok=True)
    said.write_text(json.dumps(vars(case)))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, said, str(moment)], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    passed = done.stdout.rpartition("moments: ")[2].strip()
    return done.returncode, int(passed) if done.returncode == 0 else 0


def killed_and_resumed(folder: Path, count: int, seed: int) -> None:
    """Several updates on each set, problems drawn anew, a reference model, latent steps whose threshold is
    measured first, validation: all that a resume must bring back."""
    rows = harness.write_rows(folder / "rows.jsonl", 12)
    recipe = world.recipe(
        rows,
        grpo={
            "minibatches": 2,
            "passes": 2,
            "zero_variance": "resample",
            "resample_rounds": 2,
            "kl": {"beta": 0.05},
            "latent_loss": {"reduction": "mean_over_dims"},
        },
        train={"steps": 10, "batch": 8, "save_every": 3, "eval_every": 4, "keep": {"best": "reward"}},
        validation=harness.dataset(rows),
        sampling={"temperature": 1.0, "max_new_tokens": 10},
        latent=world.LATENT["latent"],
        disturbance={"entropy_threshold": {"target_ratio": 0.5, "problems": 6}, "floor": 0.01},
    )
    whole = harness.Case(str(folder / "whole"), recipe)
    _, moments = attempt(whole, 0)
    assert moments > 100
    wanted = load_file(whole.stage / "model" / "model.safetensors")
    for moment in random.Random(seed).sample(range(1, moments), count):
        case = harness.Case(str(folder / f"killed-{moment}"), recipe)
        code, _ = attempt(case, moment)
        assert code == -signal.SIGKILL
        again = harness.Case(case.root, recipe, attempt=2)
        assert attempt(again, 0)[0] == 0
        found = load_file(again.stage / "model" / "model.safetensors")
        for name, value in wanted.items():
            assert torch.equal(value, found[name]), f"killed at moment {moment} of {moments}: {name}"


def test_three_kills(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, 3, seed=1)


@pytest.mark.slow
def test_ten_kills(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, 10, seed=2)
