"""Every shipped recipe loads and can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentctl import shipped
from latentctl.cli.recipes import summary
from latentctl.plan.build import build_plan
from latentctl.spec.load import load_profile, load_recipe

RECIPES = sorted(shipped.folder("recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_it_is_planned_for_a_node_with_gpus(path: Path) -> None:
    profile = load_profile(shipped.folder("cluster") / "example-a100.yaml")
    for point in load_recipe(path).points:
        plan = build_plan(point.experiment, profile, f"{path.stem}-00000000", "0" * 64)
        assert [name for job in plan.jobs for name in job.stages] == [s.name for s in point.experiment.stages]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_its_comment_says_what_it_is_for(path: Path) -> None:
    assert 20 <= len(summary(path)) <= 120


def test_the_quickstart_needs_no_gpu_and_no_download() -> None:
    (point,) = load_recipe(shipped.folder("recipes") / "shell-game.yaml").points
    for stage in point.experiment.stages:
        assert stage.resources.gpus == 0
        assert stage.model.init is not None
        assert (stage.dataset.name, stage.dataset.path) == ("shell-game", None)
