"""What `--dry-run` shows; it creates nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentctl.cli import output
from latentctl.launch import executor_for
from latentctl.plan.build import build_plan, dependencies, gpu_hours
from latentctl.record.paths import RunPaths
from latentctl.report.plan import dry_run
from latentctl.runs.create import existing, identify

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile
    from latentctl.spec.load import LoadedRecipe


def show(recipe: LoadedRecipe, profile: ClusterProfile, runs_dir: Path, *, as_json: bool) -> None:
    """The plan of the recipe; of a sweep the first point's in full, the others counted. All points are
    planned, so that a refusal of any is told."""
    executor = executor_for(profile)
    rows: list[dict[str, Any]] = []
    texts: list[str] = []
    varied: list[str] = []
    for i, point in enumerate(recipe.points):
        identity = identify(point)
        run = RunPaths(runs_dir / identity.run_id)
        plan = build_plan(point.experiment, profile, run.id, identity.content_hash)
        reads = dependencies(point.experiment)
        previews = {j.name: executor.preview(run, plan, j) for j in plan.jobs} if i == 0 or as_json else {}
        before = existing(identity, runs_dir)
        rows.append(
            {
                "run": run.id,
                "path": str(run.root),
                "varies": dict(point.varies),
                "points": [{"stage": p.stage, "varies": p.varies} for p in point.parts],
                "gpu_hours": gpu_hours(plan),
                "stages": reads,
                "jobs": [
                    {**asdict(j), "gpu_hours": j.gpu_hours, "preview": previews.get(j.name)}
                    for j in plan.jobs
                ],
                "existing": before[-1].id if before else None,
            }
        )
        words = [(f"{p.stage}: ", p.varies) for p in point.parts] or [("", point.varies)]
        varied.append("; ".join(w + " ".join(f"{k}={v}" for k, v in varies.items()) for w, varies in words))
        if i == 0:
            sources = {s.name: s.from_ or "model" for s in point.experiment.stages}
            texts.append(dry_run(run, plan, sources, previews))
    if as_json:
        output.print_json("plan", {"cluster": profile.name, "runs": rows})
    else:
        print(texts[0])
        if len(rows) > 1:
            total = sum(r["gpu_hours"] for r in rows)
            print(f"\nthe first of {len(rows)} points; together {total:g} GPU-hours asked for at most")
            for row, words in zip(rows, varied, strict=True):
                print(f"  {row['run']}  " + words)
    known = [r["existing"] for r in rows if r["existing"]]
    if known:
        output.note(
            f"submitted before: {', '.join(known[:5])}; `submit` would name it, `submit --rerun` run it again"
        )
