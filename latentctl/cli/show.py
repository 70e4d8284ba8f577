"""`latentctl show`: one run in full."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from latentctl.cli import output
from latentctl.launch.observe import observe_one
from latentctl.report import show as page
from latentctl.report.text import coloured
from latentctl.runs.index import find_run

app = typer.Typer(add_completion=False)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run; a prefix or @last will do.", show_default=False)],
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """One run: what was asked, its jobs and attempts, metrics, result, paths.

    Example: latentctl show @last
    """
    view = observe_one(find_run(output.runs_dir(runs_dir), run))
    if as_json:
        output.print_json("run", page.run_dump(view))
        return
    print(page.run_text(view, colour=coloured(sys.stdout)))
    name = view.run.id
    commands = [(f"latentctl logs {name}", "what its ranks wrote")]
    if view.state in ("failed", "cancelled", "lost", "planned"):
        commands.append((f"latentctl retry {name}", "resume it"))
    elif not view.done:
        commands.append((f"latentctl status {name} --watch", "follow it"))
    output.next_commands(commands)
