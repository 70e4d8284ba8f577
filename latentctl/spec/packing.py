"""Points of an evaluation sweep that share a job: stages of one experiment, one model that stays loaded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from latentctl.errors import UserError
from latentctl.spec.methods import METHODS
from latentctl.spec.resolve import Part, Point


def packed(points: Sequence[Point], size: int) -> list[Point]:
    """Every `size` points of one seed as one. Raises UserError where a point is more than one evaluation, or
    the only one."""
    if len(points) == 1:
        raise UserError(
            "does nothing: there is one point", where="sweep.pack", hint="leave it out, or let something vary"
        )
    for point in points:
        stages = point.experiment.stages
        method = METHODS[stages[0].method]
        if len(stages) > 1 or method.trains or not method.generates:
            names = ", ".join(s.name for s in stages)
            raise UserError(
                f"only sweeps of a single evaluation can be packed, and a point here has the stages {names}",
                where="sweep.pack",
                hint="leave sweep.pack out: each point is a run of its own",
            )
    found: list[Point] = []
    ordered = sorted(points, key=lambda p: p.experiment.seed)  # stable
    for _, group in groupby(ordered, key=lambda p: p.experiment.seed):
        mine = list(group)
        found += [_one(mine[i : i + size]) for i in range(0, len(mine), size)]
    return found


def _one(points: Sequence[Point]) -> Point:
    first = points[0].experiment
    stages, parts, provenance = [], [], dict[str, str]()
    for number, point in enumerate(points, 1):
        stage = point.experiment.stages[0]
        name = f"{stage.name}.{number}"
        stages.append(stage.model_copy(update={"name": name}))
        parts.append(Part(name, point.varies))
        old, new = f"stages.{stage.name}.", f"stages.{name}."
        provenance |= {
            new + k.removeprefix(old) if k.startswith(old) else k: v for k, v in point.provenance.items()
        }
    return Point(first.model_copy(update={"stages": stages}), provenance, parts=tuple(parts))
