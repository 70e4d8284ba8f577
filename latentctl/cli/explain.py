"""`latentctl explain`: why a run waits, or failed, and what to do."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from latentctl.cli import complete, output
from latentctl.launch.explaining import outlook
from latentctl.launch.observe import observe_one
from latentctl.report.explain import explain_text
from latentctl.report.text import coloured
from latentctl.runs.index import find_run

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def explain(
    run: Annotated[
        str,
        typer.Argument(
            help="A run; a prefix or @last will do.", autocompletion=complete.runs, show_default=False
        ),
    ],
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Why each job stands as it does. Of one that waits: the reason in words, when it is expected to start,
    and what would start it sooner. Of one that failed: the rule, the lines that show it, the node, the
    attempts.

    Example: latentctl explain @last
    """
    view = observe_one(find_run(output.runs_dir(runs_dir), run))
    waiting = [job for job in view.jobs if job.state in ("planned", "submitted", "pending")]
    outlooks = {job.name: outlook(view, job) for job in waiting}
    if as_json:
        rows = [{**job.dump(), "outlook": outlooks[job.name].dump() if job.name in outlooks else None}
                for job in view.jobs]  # fmt: skip
        output.print_json("explain", {"run": view.run.id, "state": view.state, "jobs": rows})
        return
    print(explain_text(view, outlooks, colour=coloured(sys.stdout)))
    name = view.run.id
    going = (f"latentctl cancel {name}", "stop it")
    output.next_of_run(name, view.state, going, done=view.done)
