"""Real processes: 2 ranks × 2 accumulation steps train as one process with one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpo_world as world
import pytest
import torch
from grpo_world import LATENT, harness
from safetensors.torch import load_file

pytestmark = pytest.mark.heavy

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "dapo": ({}, {}, {}),
    "grpo, two minibatches twice": (
        {"aggregation": "grpo", "minibatches": 2, "passes": 2},
        {"steps": 4, "batch": 8, "micro_batch": 2},
        {},
    ),
    "dr_grpo, kl": ({"aggregation": "dr_grpo", "kl": {"beta": 0.1}}, {}, {}),
    "bnpo, kl in the reward": (
        {"aggregation": "bnpo", "kl": {"beta": 0.1, "where": "reward"}, "advantage": "batch_std"},
        {},
        {},
    ),
    "tokens of high entropy, resampled": (
        {"entropy_token_ratio": 0.3, "zero_variance": "resample", "resample_rounds": 3},
        {},
        {},
    ),
    "latent": ({}, {}, LATENT),
    "zero 2": ({}, {"zero_stage": 2}, {}),
    "zero 3": ({}, {"zero_stage": 3}, {}),
    "zero 3, latent": ({"logit_memory": 1}, {"zero_stage": 3}, LATENT),
}


def recipe(rows: Path, name: str, *, alone: bool) -> dict[str, Any]:
    grpo, train, more = CASES[name]
    train = {"steps": 2, "micro_batch": 4, "eps": 1e-3, **train}  # rounding is not blown up by a division
    if alone:
        train |= {"micro_batch": train.get("batch", 16), "zero_stage": 0}
    return world.recipe(rows, grpo=grpo, train=train, **more)


def test_two_ranks_with_two_micro_batches_train_as_one(tmp_path: Path) -> None:
    rows = harness.write_rows(tmp_path / "rows.jsonl", 12)
    pairs = {}
    for name in CASES:
        one = harness.Case(str(tmp_path / f"one-{name}"), recipe(rows, name, alone=True))
        two = harness.Case(str(tmp_path / f"two-{name}"), recipe(rows, name, alone=False))
        pairs[name] = one, two
    harness.launch(tmp_path, [one for one, _ in pairs.values()], size=1)
    harness.launch(tmp_path, [two for _, two in pairs.values()], size=2)
    for name, (one, two) in pairs.items():
        wanted, found = (load_file(c.stage / "model" / "model.safetensors") for c in (one, two))
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, atol=2e-6, rtol=1e-4, msg=f"{name}: {key}")
        for a, b in zip(one.rows(), two.rows(), strict=True):
            for number in ("loss", "reward", "entropy", "mismatch", "kl", "rows_trained", "disturbed"):
                assert (number in a) == (number in b), (name, number)
                if number in a:
                    assert a[number] == pytest.approx(b[number], rel=1e-3, abs=1e-5), (name, number)
