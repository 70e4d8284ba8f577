"""`latentctl sweep`: start every point of a sweep."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from latentctl.cli import launching, output
from latentctl.cli.launching import Cluster, DryRun, Name, Rerun, Set
from latentctl.errors import UserError

_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(?P<key>[^=]+)=(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?::(?P<how>log|whole))?")
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def sweep(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=V1,V2", help="Values to try; several --grid are combined."),
    ] = None,
    random: Annotated[
        int | None, typer.Option("--random", metavar="N", min=1, help="Draw so many points from the --range.")
    ] = None,
    range_: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="KEY=LOW..HIGH[:log]", help="What it draws; or :whole."),
    ] = None,
    pack: Annotated[
        int | None,
        typer.Option(
            "--pack", metavar="N", min=1, help="So many evaluations share a job and the loaded model."
        ),
    ] = None,
    max_parallel: Annotated[
        int | None,
        typer.Option("--max-parallel", metavar="N", min=1, help="At most so many of its jobs at once."),
    ] = None,
    max_gpu_hours: Annotated[
        float | None,
        typer.Option("--max-gpu-hours", metavar="H", min=0, help="Refuse if it could use more GPU-hours."),
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
    """Start every point of a sweep: a grid, random points, or those that the recipe lists under `sweep:`.

    Each point is an ordinary run. `latentctl report SWEEP --plot FILE` is their table and plot: accuracy
    against the share of disturbed latent steps and against tokens.

    Example: latentctl sweep recipe.yaml --grid train.lr=1e-4,1e-5 --grid train.batch=32,64
    """
    from latentctl.spec.load import load_recipe

    if dry_run and (wait or rerun):
        raise UserError("--dry-run creates nothing: there is nothing to wait for or to run again")
    from latentctl.launch.profile import profile_named

    profile = profile_named(cluster)
    more = _drawn(random, range_ or []) | ({} if pack is None else {"pack": pack})
    loaded = load_recipe(recipe, launching.overrides(set_, name), grid=grid or [], sweep=more)
    if not loaded.swept:
        raise UserError(
            "this recipe stands for a single experiment: there is nothing to sweep",
            where=str(recipe),
            hint="say what varies: --grid train.lr=1e-4,1e-5, --random 8 --range train.lr=1e-6..1e-4:log, "
            "or `sweep:` or `seeds:` in the recipe",
        )
    root = output.runs_dir(runs_dir)
    if dry_run:
        from latentctl.cli.dry_run import show

        show(loaded, profile, root, as_json=as_json)
    else:
        launching.launch(
            loaded, profile, root, rerun=rerun, wait=wait, as_json=as_json, parallel=max_parallel,
            gpu_hours=max_gpu_hours,
        )  # fmt: skip


def _drawn(count: int | None, ranges: list[str]) -> dict[str, Any]:
    """The part `random` of a sweep. Raises UserError."""
    if (count is None) != (not ranges):
        raise UserError("--random N and --range KEY=LOW..HIGH go together: give both or neither")
    space: dict[str, Any] = {}
    for text in ranges:
        match = _RANGE.fullmatch(text)
        if match is None:
            raise UserError(
                f"--range {text}: expected KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=LOW..HIGH:whole",
                hint="such as --range train.lr=1e-6..1e-4:log",
            )
        low, high, how = float(match["low"]), float(match["high"]), match["how"]
        space[match["key"]] = {"low": low, "high": high} | ({how: True} if how else {})
    return {} if count is None else {"random": {"count": count, "space": space}}
