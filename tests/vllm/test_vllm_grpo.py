"""GRPO whose rollouts vLLM generates, beside DeepSpeed in one job: the engine follows the trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vllm is not installed")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "grpo"))

import grpo_world as world
from grpo_world import harness

pytestmark = pytest.mark.heavy

INIT = {"arch": "qwen3", "hidden": 128, "layers": 2, "heads": 4, "max_len": 128}
"""vLLM's CPU kernels know heads of 32 and more."""


def trained(folder: Path, name: str, recipe: dict[str, Any]) -> harness.Case:
    """In a process of its own: DeepSpeed's group must not stay behind in this one."""
    case = harness.Case(str(folder / name), recipe)
    said = folder / f"{name}.json"
    said.write_text(json.dumps([vars(case)]))
    env = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    done = subprocess.run(
        [sys.executable, harness.__file__, str(said)], env=env, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return case


def stage(folder: Path, train: dict[str, Any], grpo: dict[str, Any], **more: Any) -> dict[str, Any]:
    rows = harness.write_rows(folder / "rows.jsonl", 12)
    return world.recipe(
        rows,
        grpo={"engine": "vllm", "max_batch": 16, "temperature": 0.9, **grpo},
        train={"lr": 1e-2, **train},
        model={"init": INIT, "tokenizer": {"kind": "word", "vocab_size": 64}},
        **more,
    )


@pytest.mark.parametrize("latent", [False, True], ids=["text", "latent"])
def test_vllm_draws_what_the_trainer_trains_on(tmp_path: Path, latent: bool) -> None:
    more = world.LATENT if latent else {}
    case = trained(tmp_path, "run", stage(tmp_path, {"steps": 4}, {}, **more))
    found = [r for r in case.rows() if "reward" in r]
    assert [r["step"] for r in found] == [1, 2, 3, 4]
    for row in found:
        assert row["mismatch"] < 1e-3
        assert row["staleness"] == 0
        assert row["mismatch_masked_samples"] == 0
    if latent:
        assert all(r["latents"] == 2 and 0 < r["disturbed"] <= 1 for r in found)
        assert all(abs(r["latent_ratio"] - 1) < 1e-6 for r in found)


@pytest.mark.parametrize("ahead", [0, 1])
def test_vllm_in_a_process_of_its_own_is_the_policy_or_one_set_behind(tmp_path: Path, ahead: int) -> None:
    """A process that holds vLLM and does not train, beside one that trains and holds no engine."""
    recipe = stage(tmp_path, {"steps": 4}, {"rollout": {"processes": 1, "ahead": ahead}})
    case = harness.Case(str(tmp_path / "run"), recipe)
    harness.launch(tmp_path, [case], size=2)
    found = [r for r in case.rows() if "reward" in r]
    assert [r["staleness"] for r in found] == [0, *[ahead] * 3]
    for row in found:
        assert (row["mismatch"] < 1e-3) == (row["staleness"] == 0)
