"""Which checkpoint a person means: stages of a chain have dots in their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs_world import PROFILE

from latentctl.errors import UserError
from latentctl.plan.build import build_plan
from latentctl.record.paths import RunPaths
from latentctl.runs.checkpoint import model_of, resolve
from latentctl.spec.load import load_mapping

RUN = "x-01234567"


@pytest.fixture(params=["auto", "per_stage"])
def runs_dir(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A run whose curriculum has left the weights of its first three stages."""
    recipe = {"model": "m", "dataset": "gsm8k", "method": "coconut", "jobs": request.param}
    (point,) = load_mapping(recipe).points
    plan = build_plan(point.experiment, PROFILE, RUN, "0" * 64)
    run = RunPaths(tmp_path / RUN)
    run.root.mkdir()
    plan.save(run.plan)
    for stage in ("coconut.0", "coconut.1", "coconut.2"):
        paths = run.job(plan.job_of(stage).name).stage(stage)
        paths.model.mkdir(parents=True)
        paths.best.mkdir()
        paths.checkpoint(40).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("stage", ["coconut.0", "coconut.2", "coconut.1@best", "coconut.1@40"])
def test_one_stage_of_a_chain(runs_dir: Path, stage: str) -> None:
    assert resolve(f"{RUN}/{stage}", runs_dir) == f"run:{RUN}/{stage}"
    assert resolve(f"x-/{stage}", runs_dir) == f"run:{RUN}/{stage}"


def test_the_last_one_with_weights(runs_dir: Path) -> None:
    assert resolve(RUN, runs_dir) == f"run:{RUN}/coconut.2"
    assert resolve(f"{RUN}/coconut", runs_dir) == f"run:{RUN}/coconut.2"
    assert resolve(f"{RUN}/coconut@best", runs_dir) == f"run:{RUN}/coconut.2@best"


@pytest.mark.parametrize("stage", ["coco", "coconut.", "coconut.9", "coconut.3", "coconut.1@41"])
def test_what_is_not_there(runs_dir: Path, stage: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(f"{RUN}/{stage}", runs_dir)
    assert caught.value.code == 3


def test_a_chain_without_weights(runs_dir: Path) -> None:
    for path in sorted((runs_dir / RUN).rglob("model")):
        path.rmdir()
    with pytest.raises(UserError, match=f"coconut of {RUN} has left no weights") as caught:
        resolve(f"{RUN}/coconut", runs_dir)
    assert caught.value.code == 3


def test_the_model_of_a_stage_is_none_without_a_spec(runs_dir: Path) -> None:
    assert model_of(RUN, "coconut.0", runs_dir) is None
