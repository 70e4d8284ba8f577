"""`latentctl cancel`: stop runs and all their processes."""

from __future__ import annotations

from typing import Annotated

import typer

from latentctl.cli import output
from latentctl.launch.observe import observe
from latentctl.launch.stopping import cancel_run
from latentctl.runs.sweeps import select

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def cancel(
    runs: Annotated[
        list[str], typer.Argument(help="Runs or sweeps; a prefix or @last will do.", show_default=False)
    ],
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Stop a run and all its processes. What it finished stays, and `retry` resumes it.

    Example: latentctl cancel @last
    """
    root = output.runs_dir(runs_dir)
    seen = observe(select(root, runs))
    rows = []
    for view in seen.views:
        stopped = cancel_run(view)
        rows.append({"run": view.run.id, "cancelled": stopped})
        output.note(
            f"cancelled {view.run.id}: {', '.join(stopped)}"
            if stopped
            else f"{view.run.id} has ended already: {view.state}"
        )
    if as_json:
        output.print_json("cancelled", {"runs": rows})
    hit = [r["run"] for r in rows if r["cancelled"]]
    if hit:
        output.next_commands(
            [(f"latentctl retry {hit[0]}", "resume it"), (f"latentctl show {hit[0]}", "what it did")]
        )
