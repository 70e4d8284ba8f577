"""`method: divergence-eval`: what a divergence model is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from jobs.grade.samples import Row
from jobs.methods.divergence import measures, rows
from jobs.methods.protocol import Preempted, StageContext
from jobs.models.divergence import DivergenceJudge
from jobs.runtime import distributed, sources
from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import write_json
from latentctl.record.attempt import ensure_current
from latentctl.spec.divergence import DivergenceEvalSettings


class Measure:
    """One stage; process 0 does it."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.settings = cast(DivergenceEvalSettings, ctx.stage.settings)

    def run(self) -> dict[str, Any]:
        """Score and measure. Raises Preempted (nothing is lost but the scores), JobUserError."""
        ctx, settings = self.ctx, self.settings
        if not ctx.world.main:
            return {}
        if ctx.source is None:
            raise JobUserError(
                "there is no divergence model to measure",
                hint="from: a stage of the method divergence, or run:ID/STAGE",
                where=f"{ctx.stage.name}.from",
            )
        judge = DivergenceJudge.load(ctx.source, device=distributed.device(ctx.world))
        config = judge.config
        found = data(ctx, settings.data)
        if settings.part == "held_out":
            found = [r for r in found if rows.held_out(r, config.held_out, config.split_seed)]
        if not found:
            raise JobUserError(
                f"no problem of {', '.join(settings.data)} was held out in the model's training",
                hint="part: all measures on all of it, if the model was trained on other data",
                where=f"{ctx.stage.name}.divergence-eval.part",
            )
        told = evaluate(ctx, judge, found, batch=settings.batch)
        return {**told, "part": settings.part, "source": str(ctx.source)}


def data(ctx: StageContext, said: Sequence[str]) -> list[Row]:
    """The rows of all data sets that a stage names. Raises JobUserError."""
    where = f"{ctx.stage.name}.{ctx.stage.method}.data"
    places = {text: sources.dataset_of(ctx.run, text, where=where) for text in said}
    return [row for text, path in places.items() for row in rows.read(path, text, where=where)]


def evaluate(
    ctx: StageContext, judge: DivergenceJudge, found: Sequence[Row], *, batch: int
) -> dict[str, Any]:
    """Write evaluation.json and print the table. Returns the numbers without the curves."""
    scores: list[float] = []
    for i in range(0, len(found), batch):
        if ctx.stop.set:
            raise Preempted(f"{i} of {len(found)} rows were scored")
        scores += judge.score([rows.triple(r) for r in found[i : i + batch]])
        ctx.report.progress(len(scores), len(found), unit="row")
    told = measures.evaluation(scores, [r["label"] for r in found], [r["problem"] for r in found])
    ensure_current(ctx.job, ctx.attempt)
    write_json(ctx.paths.evaluation, told)
    print(measures.table(told), flush=True)
    return {k: v for k, v in told.items() if k not in ("calibration", "thresholds")}
