"""Experiments and points made by hand, for the tests of run directories."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from latentctl.plan.build import build_plan
from latentctl.runs.create import PlanMaker
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.experiment import Experiment

PROFILE = ClusterProfile.model_validate({"name": "local", "executor": "local"})
RECIPE = b"name: tiny  # as written\n"


@dataclass(frozen=True)
class HandMade:
    """What `spec.load.Point` is."""

    experiment: Experiment
    provenance: dict[str, str] = field(default_factory=lambda: {"name": "tiny.yaml:1:7"})
    varies: dict[str, Any] = field(default_factory=dict)


def point(name: str = "tiny", **more: Any) -> HandMade:
    stages = [
        {"name": "sft", "method": "sft", "from": "model", "model": "m", "dataset": "gsm8k"},
        {"name": "score", "method": "eval", "from": "sft", "model": "m", "dataset": "gsm8k"},
    ]
    return HandMade(Experiment.model_validate({"name": name, "stages": stages, **more}))


def plans(of: HandMade) -> PlanMaker:
    return partial(build_plan, of.experiment, PROFILE)
