"""`submit --debug`: two steps and four rows, here and now, a debugger on error; nothing is kept."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from latentctl.cli import output
from latentctl.errors import Exit, UserError
from latentctl.plan.build import build_plan
from latentctl.report import result
from latentctl.runs import create

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile
    from latentctl.spec.load import LoadedRecipe


def run_here(recipe: LoadedRecipe, profile: ClusterProfile) -> None:
    """The first point of the recipe in a throw-away run directory, in this terminal. Exits with 1 where it
    fails."""
    from latentctl.launch.foreground import run_jobs

    if profile.executor != "local":
        raise UserError(
            f"--debug runs on this machine, and {profile.name} is a {profile.executor} cluster",
            hint="leave --cluster out, or submit a small version: --set train.steps=2 --set dataset.limit=4",
        )
    if len(recipe.points) > 1:
        output.note(f"debug: the first of {len(recipe.points)} points")
    point = recipe.points[0]
    with tempfile.TemporaryDirectory(prefix="latentctl-debug-") as folder:
        make_plan = partial(build_plan, point.experiment, profile, debug=True)
        prepared = create.prepare(point, profile, Path(folder), recipe.recipe_bytes, make_plan)
        output.note(f"debug: {prepared.run.id}, two steps, four rows; the run directory goes away at the end")
        job, code = run_jobs(prepared.run, prepared.plan)
        if code == 0:
            print(result.run_table(result.stage_results(prepared.run, prepared.plan)), flush=True)
            output.note("debug: all stages ran")
            output.next_commands([("latentctl submit RECIPE", "run it for real")])
            return
    output.note(f"error: debug: job {job} ended with exit code {code}")
    raise typer.Exit(Exit.NEGATIVE)
