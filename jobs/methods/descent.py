"""Which training data an evaluated checkpoint descends from, and whether the evaluation's questions
stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.data.example import Example
from jobs.data.leakage import RULE, compare
from jobs.data.load import load
from jobs.methods.protocol import StageContext
from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import try_read_json
from latentctl.record.paths import RunPaths
from latentctl.spec.experiment import Experiment
from latentctl.spec.stage import StageBase


def ancestors(experiment: Experiment, stage: StageBase, runs: RunPaths) -> tuple[list[StageBase], str | None]:
    """Training stages that the weights of `stage` went through, nearest first; and what lies beyond our
    sight: the directory or Hub id where they began, None for a random model."""
    found: list[StageBase] = []
    while True:
        text = stage.from_ or "model"
        if text == "model":
            return found, stage.model.path
        name = text.rpartition("@")[0] or text
        if text.startswith("run:"):
            other_id, _, name = name.removeprefix("run:").partition("/")
            spec = try_read_json(RunPaths(runs.root.parent / other_id).spec)
            if spec is None:
                return found, text
            experiment = Experiment.model_validate(spec["experiment"])
        parent = next((s for s in experiment.stages if s.name == name), None)
        if parent is None or parent in found:
            return found, text
        if parent.settings.trains:
            found.append(parent)
        stage = parent


def leakage(ctx: StageContext, examples: Sequence[Example]) -> dict[str, Any]:
    """{"count", "rule", "unseen": where weights began that we cannot look into, "sets": [per training set]}.

    A training set that cannot be read here is reported as unchecked; it never stops an evaluation.
    """
    stages, beyond = ancestors(ctx.experiment, ctx.stage, ctx.run)
    sets: list[dict[str, Any]] = []
    seen = []
    for stage in stages:
        if stage.dataset in seen:
            continue
        seen.append(stage.dataset)
        try:
            rows = load(stage.dataset, data_dir=ctx.data_dir, plugins=ctx.experiment.plugins).examples
        except (JobUserError, OSError) as error:
            sets.append({"stage": stage.name, "checked": False, "reason": str(error)})
            continue
        found = compare(rows, examples, names=(stage.name, ctx.stage.name))
        ids = [leak.eval_id for leak in found.examples]
        sets.append(
            {"stage": stage.name, "checked": True, "exact": found.exact, "near": found.near, "examples": ids}
        )
    count = sum(s.get("exact", 0) + s.get("near", 0) for s in sets)
    return {"count": count, "rule": RULE, "unseen": beyond, "sets": sets}
