"""`latentctl sweep`: start every point of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentctl.cli import launching, output
from latentctl.cli.launching import Cluster, DryRun, Name, Rerun, Set
from latentctl.errors import UserError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def sweep(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=V1,V2", help="Values to try; several --grid are combined."),
    ] = None,
    set_: Set = None,
    cluster: Cluster = "local",
    name: Name = None,
    dry_run: DryRun = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow until it ends; Ctrl-C lets it go on.")] = False,
    rerun: Rerun = False,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Start every point of a grid; each is an ordinary run.

    Example: latentctl sweep recipe.yaml --grid train.lr=1e-4,1e-5 --grid train.batch=32,64
    """
    from latentctl.spec.load import load_recipe

    if dry_run and (wait or rerun):
        raise UserError("--dry-run creates nothing: there is nothing to wait for or to run again")
    profile = launching.cluster(cluster)
    loaded = load_recipe(recipe, launching.overrides(set_, name), grid=grid or [])
    if not loaded.swept:
        raise UserError(
            "this recipe stands for a single experiment: there is nothing to sweep",
            where=str(recipe),
            hint="say what varies: --grid train.lr=1e-4,1e-5, or `sweep:` or `seeds:` in the recipe",
        )
    root = output.runs_dir(runs_dir)
    if dry_run:
        from latentctl.cli.dry_run import show

        show(loaded, profile, root, as_json=as_json)
    else:
        launching.launch(loaded, profile, root, rerun=rerun, wait=wait, as_json=as_json)
