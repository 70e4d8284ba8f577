"""`latentctl status`: runs and jobs, their state, progress, time left. Imports no spec and no rich."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from latentctl.cli import complete, output
from latentctl.errors import Exit
from latentctl.launch.observe import Observed, observe
from latentctl.record.paths import RunPaths
from latentctl.record.sweeps import membership
from latentctl.report.status import status_table
from latentctl.report.text import coloured
from latentctl.runs.index import all_runs
from latentctl.runs.reconcile import answer
from latentctl.runs.sweeps import select

app = typer.Typer(add_completion=False, rich_markup_mode=None)
NEWEST = 15
"""Runs shown without names and without --all."""


@app.command()
def status(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs or sweeps; a prefix or @last will do. The newest if unsaid.",
            autocompletion=complete.runs,
            show_default=False,
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until everything has ended.")] = False,
    every: Annotated[float, typer.Option("--every", help="Seconds between refreshes.")] = 5.0,
    all_: Annotated[bool, typer.Option("--all", help=f"All runs, not the newest {NEWEST} alone.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="0 all succeeded, 1 some did not, 8 still pending or running.")
    ] = False,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Runs and jobs: state, progress, time left.

    Example: latentctl status @last --watch
    """
    root = output.runs_dir(runs_dir)
    names = runs or []
    while True:
        chosen = select(root, names) if names else all_runs(root)
        left_out = 0 if names or all_ else max(0, len(chosen) - NEWEST)
        chosen = chosen[: len(chosen) - left_out]
        seen = observe(chosen)
        _show(seen, chosen, root, named=bool(names), left_out=left_out, watch=watch, as_json=as_json)
        if not watch or all(v.done for v in seen.views):
            break
        time.sleep(every)
    if exit_code:
        code = answer([j.state for v in seen.views for j in v.jobs])
        if seen.damaged and code == Exit.OK:
            code = Exit.NEGATIVE
        if code:
            raise typer.Exit(code)


def _show(
    seen: Observed,
    chosen: Sequence[RunPaths],
    root: Path,
    *,
    named: bool,
    left_out: int,
    watch: bool,
    as_json: bool,
) -> None:
    sweeps = membership(root)
    if as_json:
        rows = [{**v.dump(), **sweeps.get(v.run.id, {"sweep": None, "varies": {}})} for v in seen.views]
        output.print_json(
            "status",
            {"runs": rows, "damaged": seen.damaged, "unanswered": seen.unanswered, "not_shown": left_out},
        )
        return
    terminal = sys.stdout.isatty()
    if watch and terminal:
        print("\033[H\033[2J", end="")
    width = min(shutil.get_terminal_size().columns, 160) if terminal else 80
    if seen.views:
        jobs = named and len(seen.views) <= 5
        print(
            status_table(seen.views, sweeps=sweeps, jobs=jobs, width=width, colour=coloured(sys.stdout)),
            flush=True,
        )
    for run, why in seen.damaged.items():
        output.note(f"warning: {run} cannot be read: {why}")
    for trouble in seen.unanswered:
        output.note(f"warning: no answer from {trouble}")
    if left_out:
        output.note(f"and {left_out} older; --all shows them")
    if not chosen:
        output.note(f"no runs in {root}; start one with `latentctl submit RECIPE`")
