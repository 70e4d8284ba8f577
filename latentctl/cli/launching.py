"""What `submit`, `sweep` and `eval` share: the cluster, the start, the words after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentctl.cli import complete, follow, output, preflight
from latentctl.errors import Exit
from latentctl.record.paths import RunPaths

if TYPE_CHECKING:
    from latentctl.launch.start import Started
    from latentctl.launch.sweeps import Sweep
    from latentctl.spec.cluster import ClusterProfile
    from latentctl.spec.load import LoadedRecipe

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set train.lr=1e-4")
]
Cluster = Annotated[
    str,
    typer.Option(
        "--cluster",
        envvar="LATENTCTL_CLUSTER",
        help="Cluster profile (latentctl clusters list).",
        autocompletion=complete.clusters,
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run; the recipe's if unsaid.")]
Rerun = Annotated[
    bool, typer.Option("--rerun", help="Run it again although the same thing was submitted before.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow until it ends; Ctrl-C lets it go on.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted; create nothing.")]


def overrides(given: list[str] | None, name: str | None) -> list[str]:
    """`--set` texts, `--name` being one of them."""
    return [*(given or []), *([f"name={name}"] if name is not None else [])]


def launch(
    recipe: LoadedRecipe,
    profile: ClusterProfile,
    runs_dir: Path,
    *,
    rerun: bool,
    wait: bool,
    as_json: bool,
    parallel: int | None = None,
    gpu_hours: float | None = None,
) -> None:
    """Submit the recipe's point, or its points as a sweep; say what happened; follow if asked."""
    preflight.quick(recipe, profile, runs_dir)
    if recipe.swept:
        from latentctl.launch.sweeps import start_sweep

        sweep = start_sweep(recipe, profile, runs_dir, rerun=rerun, parallel=parallel, gpu_hours=gpu_hours)
        _announce_sweep(sweep, packed=bool(recipe.points[0].parts))
        finish([s.run for s in sweep.started], sweep.id, wait=wait, as_json=as_json, started=sweep.started)
        return
    from latentctl.launch.start import start

    started = start(recipe.points[0], profile, runs_dir, recipe.recipe_bytes, rerun=rerun)
    _announce(started, wait=wait)
    finish([started.run], started.run.id, wait=wait, as_json=as_json, started=[started])


def finish(
    runs: Sequence[RunPaths], name: str, *, wait: bool, as_json: bool, started: Sequence[Started] = ()
) -> None:
    """Follow to the end if asked, else print the next commands (or the envelope)."""
    if wait:
        code = follow.follow(runs, name, as_json=as_json)
        if code != Exit.OK:
            raise typer.Exit(code)
        return
    if as_json:
        output.print_json("submitted", {"name": name, "runs": [_row(s) for s in started]})
    output.next_commands(
        [
            (f"latentctl status {name}", "state and progress"),
            (f"latentctl logs {runs[0].id} -f", "what it writes"),
            (f"latentctl cancel {name}", "stop it"),
        ]
    )


def _row(started: Started) -> dict[str, Any]:
    jobs = [j.name for j in started.plan.jobs]
    return {"run": started.run.id, "created": started.created, "path": str(started.run.root), "jobs": jobs}


def _announce(started: Started, *, wait: bool) -> None:
    run, plan = started.run, started.plan
    if started.created:
        output.note(f"submitted {run.id}: {_jobs(len(plan.jobs))} on {plan.cluster['name']}")
    else:
        from latentctl.launch.observe import observe_one

        state = observe_one(run).state
        output.note(f"the same thing was submitted before: {run.id} is {state}; nothing was started")
        again = "latentctl retry" if state in ("failed", "cancelled", "lost", "planned") else None
        if again and not wait:
            output.note(f"hint: `{again} {run.id}` resumes it; `--rerun` runs it again from the start")
        else:
            output.note("hint: `--rerun` runs it again from the start")
    for problem in started.findings:
        output.note(f"warning: {problem.text()}")


def _announce_sweep(sweep: Sweep, *, packed: bool) -> None:
    started = sweep.started
    new = sum(s.created for s in started)
    old = len(started) - new
    also = f"; {old} {'was' if old == 1 else 'were'} submitted before" if old else ""
    parts = sum(len(job.stages) for s in started for job in s.plan.jobs)
    what = f"runs of {parts} points" if packed else "points"
    output.note(f"sweep {sweep.id}: submitted {new} of {len(started)} {what}{also}")
    for problem in sweep.findings[:5]:
        output.note(f"warning: {problem.text()}")


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
