"""Small GRPO stages for tests: a random model that is rewarded for writing one word."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))

import train_harness as harness

PLUGIN = Path(__file__).with_name("favourite_word.py")
GRPO: dict[str, Any] = {
    "group_size": 4,
    "max_completion_len": 10,
    "engine": "transformers",
    "precision": "fp32",
    "grader": "exact",
    "rewards": {"correctness": 0.0, "own": {"favourite": 1.0}},
}


LATENT: dict[str, Any] = {
    "latent": {
        "input": {"kind": "soft", "max_topk": 6},
        "markers": {"start": "wa", "end": "wb"},
        "stop": 2,
        "noise": {"kind": "concrete"},
    },
    "disturbance": {"entropy_threshold": 0.5, "max_ratio": 0.6},
}
"""Two latent steps before each answer."""


def recipe(rows: Path, *, grpo: dict[str, Any] | None = None, **stage: Any) -> dict[str, Any]:
    """A recipe of one GRPO stage, as a resolved experiment; `train` and others override parts of it."""
    train = {"batch": 16, "micro_batch": 8, "steps": 4, "lr": 3e-3, **stage.pop("train", {})}
    made = harness.experiment(
        rows,
        {k: v for k, v in train.items() if k != "max_len"},
        name="grpo",
        method="grpo",
        prompt={"form": "answer", "template": "plain"},
        grpo={**GRPO, **(grpo or {})},
        **stage,
    )
    made["stages"][0]["train"].pop("max_len", None)
    made["plugins"] = [str(PLUGIN)]
    return made
