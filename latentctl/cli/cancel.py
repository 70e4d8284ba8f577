"""`latentctl cancel`: stop runs and all their processes."""

from __future__ import annotations

from typing import Annotated

import typer

from latentctl.cli import complete, output
from latentctl.launch.observe import observe
from latentctl.launch.stopping import cancel_runs
from latentctl.runs.sweeps import select

_EACH = 10
"""So many are named one by one."""
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def cancel(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Runs or sweeps; a prefix or @last will do.",
            autocompletion=complete.runs,
            show_default=False,
        ),
    ],
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Stop a run and all its processes. What it finished stays, and `retry` resumes it.

    Example: latentctl cancel @last
    """
    root = output.runs_dir(runs_dir)
    seen = observe(select(root, runs))
    stopped = cancel_runs(seen.views)
    if len(stopped) > _EACH:
        output.note(
            f"cancelled {sum(map(bool, stopped.values()))} of {len(stopped)} runs; the others had ended"
        )
    else:
        for view in seen.views:
            jobs = ", ".join(stopped[view.run.id])
            ended = f"{view.run.id} has ended already: {view.state}"
            output.note(f"cancelled {view.run.id}: {jobs}" if jobs else ended)
    if as_json:
        rows = [{"run": run, "cancelled": jobs} for run, jobs in stopped.items()]
        output.print_json("cancelled", {"runs": rows})
    hit = [run for run, jobs in stopped.items() if jobs]
    if hit:
        output.next_commands(
            [(f"latentctl retry {hit[0]}", "resume it"), (f"latentctl show {hit[0]}", "what it did")]
        )
