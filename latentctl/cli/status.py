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
from latentctl.report.status import run_row, status_table
from latentctl.report.text import coloured
from latentctl.runs.index import all_runs
from latentctl.runs.reconcile import answer
from latentctl.runs.settled import Settled, SettledRuns, sign
from latentctl.runs.sweeps import select
from latentctl.runs.view import RunView

app = typer.Typer(add_completion=False, rich_markup_mode=None)
NEWEST = 15
"""Runs shown without names and without --all."""
_WITH_JOBS = 5
"""So many runs asked for by name show their jobs, too."""


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
        jobs = bool(names) and len(chosen) <= _WITH_JOBS and not as_json
        views, seen = _look(root, chosen, remembered=not jobs)
        _show(views, seen, root, jobs=jobs, left_out=left_out, watch=watch, as_json=as_json)
        if not chosen:
            output.note(f"no runs in {root}; start one with `latentctl submit RECIPE`")
        if not watch or all(v.done for v in views):
            break
        time.sleep(every)
    if exit_code:
        code = answer([state for v in views for state in v.states])
        if seen.damaged and code == Exit.OK:
            code = Exit.NEGATIVE
        if code:
            raise typer.Exit(code)


def _look(
    root: Path, chosen: Sequence[RunPaths], *, remembered: bool
) -> tuple[list[RunView | Settled], Observed]:
    """The runs in that order. With `remembered` those that have ended for good are not read again."""
    if not remembered:
        seen = observe(chosen)
        return [*seen.views], seen
    known = SettledRuns(root)
    found: dict[str, RunView | Settled] = {r.id: s for r in chosen if (s := known.recall(r)) is not None}
    unsettled = [run for run in chosen if run.id not in found]
    signs = {run.id: sign(run) for run in unsettled}
    seen = observe(unsettled)
    for view in seen.views:
        known.add(view, run_row(view), signs[view.run.id])
        found[view.run.id] = view
    known.save()
    return [found[run.id] for run in chosen if run.id in found], seen


def _show(
    views: Sequence[RunView | Settled],
    seen: Observed,
    root: Path,
    *,
    jobs: bool,
    left_out: int,
    watch: bool,
    as_json: bool,
) -> None:
    sweeps = membership(root)
    if as_json:
        rows = [{**v.dump(), **sweeps.get(v.run.id, {"sweep": None, "varies": {}})} for v in views]
        output.print_json(
            "status",
            {"runs": rows, "damaged": seen.damaged, "unanswered": seen.unanswered, "not_shown": left_out},
        )
        return
    terminal = sys.stdout.isatty()
    if watch and terminal:
        print("\033[H\033[2J", end="")
    width = min(shutil.get_terminal_size().columns, 160) if terminal else 80
    if views:
        print(
            status_table(views, sweeps=sweeps, jobs=jobs, width=width, colour=coloured(sys.stdout)),
            flush=True,
        )
    for run, why in seen.damaged.items():
        output.note(f"warning: {run} cannot be read: {why}")
    for trouble in seen.unanswered:
        output.note(f"warning: no answer from {trouble}")
    if left_out:
        output.note(f"and {left_out} older; --all shows them")
