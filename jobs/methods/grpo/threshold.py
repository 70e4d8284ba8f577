"""The disturbance of a stage with a number as its threshold, measured where the recipe asks for a ratio."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jobs.generate.protocol import Sample
from jobs.methods import thresholds
from jobs.methods.protocol import StageContext
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import try_read_json, write_json
from latentctl.spec.disturbance import DisturbanceSpec, TargetRatio

_FILE = "disturbance.json"


def settled(
    ctx: StageContext, spec: DisturbanceSpec | None, measure: Callable[[int], list[Sample]]
) -> DisturbanceSpec | None:
    """`spec` with a number as its threshold. `measure(n)`: this rank's samples of the first n problems, with
    the entropy of each latent step. What was measured once is kept: a later attempt disturbs at the same
    entropy. A collective; raises JobUserError where no latent step was taken."""
    if spec is None or not isinstance(spec.entropy_threshold, TargetRatio):
        return spec
    wanted = spec.entropy_threshold
    path = ctx.paths.root / _FILE
    held = distributed.broadcast(try_read_json(path) if ctx.world.main else None)
    if held is None or held.get("target_ratio") != wanted.target_ratio:
        entropies = [[t.entropy for t in s.thoughts or ()] for s in measure(wanted.problems)]
        every = [row for share in distributed.gather(entropies) for row in share if row]
        if not every:
            raise JobUserError(
                "no latent step was taken: there is no entropy to set disturbance.entropy_threshold by",
                hint="do the markers and stop rules fit this checkpoint? or give the threshold as a number",
                where=f"{ctx.stage.name}.disturbance.entropy_threshold",
            )
        found = thresholds.target([np.array(row) for row in every], wanted.target_ratio)
        held = {
            "target_ratio": wanted.target_ratio,
            "threshold": found.threshold,
            "ci": list(found.ci),
            "steps": sum(map(len, every)),
            "problems": len(every),
        }
        if ctx.world.main:
            write_json(path, held)
            low, high = held["ci"]
            ctx.report.note(
                f"disturbance.entropy_threshold {held['threshold']:.4g} nats (95 % {low:.4g} to {high:.4g}) "
                f"leaves {wanted.target_ratio:g} of {held['steps']} latent steps above it"
            )
    return spec.model_copy(update={"entropy_threshold": held["threshold"]})
