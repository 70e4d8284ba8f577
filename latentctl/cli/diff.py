"""`latentctl diff`: what two runs differ in."""

from __future__ import annotations

from typing import Annotated

import typer

from latentctl.cli import complete, output
from latentctl.errors import Exit
from latentctl.report.diff import code_diff, differences, text
from latentctl.runs.index import find_run

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def diff(
    a: Annotated[
        str,
        typer.Argument(metavar="A", help="A run; a prefix or @last will do.", autocompletion=complete.runs),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.", autocompletion=complete.runs)],
    code: Annotated[bool, typer.Option("--code", help="Also the lines of the code that differ.")] = False,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """What two runs differ in: what was asked of them, their code, their packages, their results.

    Exit code 1: something other than results differs.

    Example: latentctl diff tiny-1a2b3c4d @last --code
    """
    root = output.runs_dir(runs_dir)
    runs = find_run(root, a), find_run(root, b)
    found = differences(*runs)
    if as_json:
        said = {"a": runs[0].id, "b": runs[1].id, "same": found.same, **found.dump()}
        if code:
            said["code_lines"] = list(code_diff(*runs, found.code))
        output.print_json("diff", said)
    else:
        print(text(found, (runs[0].id, runs[1].id)))
        if code and found.code:
            print("\n" + "\n".join(code_diff(*runs, found.code)))
    if not found.same:
        raise typer.Exit(Exit.NEGATIVE)
