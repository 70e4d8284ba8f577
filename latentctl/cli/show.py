"""`latentctl show`: one run in full."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from latentctl.cli import complete, output
from latentctl.launch.observe import observe, observe_one
from latentctl.record.sweeps import membership
from latentctl.report import show as page
from latentctl.report.many import sweep_table
from latentctl.report.status import status_table
from latentctl.report.text import coloured
from latentctl.runs.index import find_run
from latentctl.runs.sweeps import find_sweep, points_of

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def show(
    run: Annotated[
        str,
        typer.Argument(
            help="A run or a sweep; a prefix or @last will do.",
            autocompletion=complete.runs,
            show_default=False,
        ),
    ],
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """One run: what was asked, its jobs and attempts, metrics, result, paths. Of a sweep: its points and
    their results.

    Example: latentctl show @last
    """
    root = output.runs_dir(runs_dir)
    sweep = find_sweep(root, run)
    if sweep is not None:
        _show_sweep(root, sweep, as_json=as_json)
        return
    view = observe_one(find_run(root, run))
    if as_json:
        output.print_json("run", page.run_dump(view))
        return
    print(page.run_text(view, colour=coloured(sys.stdout)))
    name = view.run.id
    going = (f"latentctl status {name} --watch", "follow it")
    output.next_of_run(name, view.state, going, done=view.done)


def _show_sweep(root: Path, sweep: str, *, as_json: bool) -> None:
    """The points with their states, and the results over them."""
    points = points_of(root, sweep)
    seen = observe(list({p.run.id: p.run for p in points}.values()))
    if as_json:
        outcomes = {v.run.id: page.outcome_dump(v) for v in seen.views}
        rows = [
            {**outcomes[p.run.id], "varies": p.varies, **({"stage": p.stage} if p.stage else {})}
            for p in points
            if p.run.id in outcomes
        ]
        output.print_json("sweep", {"sweep": sweep, "points": rows})
        return
    colour = coloured(sys.stdout)
    print(status_table(seen.views, sweeps=membership(root), colour=colour))
    table = sweep_table(points, colour=colour)
    if table:
        print(f"\nresult:\n{table}")
    output.next_commands(
        [(f"latentctl status {sweep}", "every job"), (f"latentctl cancel {sweep}", "stop all")]
    )
