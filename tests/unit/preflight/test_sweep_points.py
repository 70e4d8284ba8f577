"""`check --cluster` of a sweep: every kind of its points is looked at, and room is needed for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from preflight_world import rows

from jobs.preflight.inspect import run
from latentctl.launch import preflight
from latentctl.record.findings import Finding
from latentctl.record.sizes import size_text
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.load import LoadedRecipe, load_mapping


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return rows(tmp_path / "train.jsonl")


def sweep(data: Path, grid: dict[str, Any]) -> LoadedRecipe:
    recipe = {
        "name": "tiny",
        "model": {"init": {"hidden": 32, "layers": 1, "heads": 2}},
        "dataset": {"name": "gsm8k", "path": str(data)},
        "train": {"batch": 64, "steps": 2},
        "resources": {"gpus": 1},
        "stages": ["sft"],
    }
    return load_mapping({**recipe, "sweep": {"grid": grid}})


def found(recipe: LoadedRecipe, runs: Path) -> list[Finding]:
    profile = ClusterProfile.model_validate(
        {"name": "here", "executor": "local", "gpus_per_node": 1, "gpu_memory": "1G"}
    )
    return list(preflight.whole(recipe, profile, runs))


def test_the_point_that_needs_too_much_is_named(data: Path, tmp_path: Path) -> None:
    recipe = sweep(data, {"train.lr": [1e-3, 1e-4], "model.init.hidden": [32, 1024]})
    memory = {f.level: f.where for f in found(recipe, tmp_path) if "of each GPU" in f.message}
    assert memory == {
        "warning": "stages.sft (model.init.hidden=32)",
        "error": "stages.sft (model.init.hidden=1024)",
    }


def test_room_is_needed_for_every_point(data: Path, tmp_path: Path) -> None:
    recipe = sweep(data, {"train.lr": [1e-3, 1e-4, 1e-5], "model.init.hidden": [32, 1024]})
    (said,) = [f.message for f in found(recipe, tmp_path) if f.where == "space"]
    dumps = [p.experiment.dump() for p in recipe.points]
    need = sum(one["disk"] for one in run({"recipes": dumps})["points"])
    assert said.startswith(f"checkpoints need up to {size_text(need)}, ")


def test_more_kinds_than_are_looked_at_are_told(data: Path, tmp_path: Path) -> None:
    recipe = sweep(data, {"train.max_len": list(range(64, 82))})
    (said,) = [f for f in found(recipe, tmp_path) if f.where == "sweep"]
    assert said.level == "unknown"
    assert said.message == "its points are of 18 kinds, of which the first 16 were looked at"
