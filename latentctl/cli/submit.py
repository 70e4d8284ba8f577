"""`latentctl submit`: validate, plan and start a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentctl.cli import launching, output
from latentctl.cli.launching import Cluster, DryRun, Name, Rerun, Set
from latentctl.errors import UserError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def submit(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    set_: Set = None,
    cluster: Cluster = "local",
    name: Name = None,
    dry_run: DryRun = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow until it ends; Ctrl-C lets it go on.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Two steps, four rows, in the foreground, a debugger on error.")
    ] = False,
    rerun: Rerun = False,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Validate, plan and start a recipe; here or on a cluster.

    Example: latentctl submit shell-game.yaml --set train.lr=1e-4 --wait
    """
    from latentctl.spec.load import load_recipe

    if debug and (wait or dry_run or rerun or as_json):
        raise UserError("--debug goes alone: it runs here, at once, and keeps nothing")
    if dry_run and (wait or rerun):
        raise UserError("--dry-run creates nothing: there is nothing to wait for or to run again")
    from latentctl.launch.profile import profile_named

    profile = profile_named(cluster)
    loaded = load_recipe(recipe, launching.overrides(set_, name))
    root = output.runs_dir(runs_dir)
    if dry_run:
        from latentctl.cli.dry_run import show

        show(loaded, profile, root, as_json=as_json)
    elif debug:
        from latentctl.cli.debugging import run_here

        run_here(loaded, profile)
    else:
        launching.launch(loaded, profile, root, rerun=rerun, wait=wait, as_json=as_json)
