"""Evaluations of one job share an engine, and are what they would be alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import eval_stage
import pytest

from jobs.methods import keeping
from jobs.methods import sharing as sharing_module
from jobs.methods.evaluate import Evaluate
from latentctl.plan.build import build_plan
from latentctl.record.paths import RunPaths
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.experiment import Experiment

SAMPLING = [{"temperature": t, "samples": 2, "max_new_tokens": 12} for t in (0.5, 1.0, 1.5)]
PROFILE = ClusterProfile.model_validate({"name": "c", "executor": "local"})


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each model that is loaded."""
    found: list[str] = []
    plain = sharing_module.load_model

    def counted(stage: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(stage.name)
        return plain(stage, *args, **kwargs)

    monkeypatch.setattr(sharing_module, "load_model", counted)
    return found


def packed(**last: Any) -> Experiment:
    """Three evaluations; `last` changes the third."""
    one = [eval_stage.experiment(name=f"eval.{i}", sampling=s) for i, s in enumerate(SAMPLING, 1)]
    stages = [exp.stages[0].model_dump(mode="json", by_alias=True) for exp in one]
    stages[2] |= last
    return Experiment.model_validate({"name": "x", "stages": stages})


def run(root: Path, exp: Experiment) -> dict[str, Any]:
    """Every stage in this process, as the worker does; -> texts by stage."""
    paths = RunPaths(root)
    root.mkdir(parents=True, exist_ok=True)
    build_plan(exp, PROFILE, paths.id, "ab" * 32).save(paths.plan)
    found = {}
    for stage in exp.stages:
        ctx = eval_stage.context(root, exp.model_copy(update={"stages": [stage]}))
        Evaluate(replace(ctx, experiment=exp)).run()
        found[stage.name] = [row["text"] for row in eval_stage.samples.read(ctx.paths.samples)]
    return found


def test_a_packed_sweep_loads_once_and_draws_the_same(tmp_path: Path, loads: list[str]) -> None:
    together = run(tmp_path / "together", packed())
    assert loads == ["eval.1"]
    assert not keeping._kept  # nothing is held when the job is over
    for stage in packed().stages:
        alone = packed().model_copy(update={"stages": [stage]})
        assert run(tmp_path / stage.name, alone) == {stage.name: together[stage.name]}
    assert len({tuple(texts) for texts in together.values()}) == 3


def test_another_model_is_loaded_and_the_old_one_let_go(tmp_path: Path, loads: list[str]) -> None:
    other = {"model": {"init": {**eval_stage.MODEL["init"], "seed": 1}}}
    run(tmp_path / "r", packed(**other))
    assert loads == ["eval.1", "eval.3"]
    assert not keeping._kept
