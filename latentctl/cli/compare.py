"""`latentctl compare`: evaluations side by side, problem by problem."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentctl.cli import output
from latentctl.errors import Exit, UserError
from latentctl.report import compare_text as page
from latentctl.report import plot as plots
from latentctl.report.compare import compare as compared
from latentctl.report.evals import collect, evaluations, targets
from latentctl.report.export import csv_text

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN[/STAGE]",
            help="Runs (all their evaluations), single evaluations, or sweeps; a prefix or @last will do.",
            show_default=False,
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="RUN[/STAGE]", help="Compare with this one. [default: the first]"),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Write accuracy against steps as a picture: .png, .svg or .pdf."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 if any row has a mark: not a fair comparison.")
    ] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="One Markdown table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Every number in full precision.")] = False,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Compare evaluations: accuracy, the difference over the same problems with its 95 % interval, visible
    tokens, latent steps, seconds per problem, stop causes. What makes a row unfair is marked and explained.

    Example: latentctl compare shell-game-cot shell-game-coconut/coconut.4-eval --plot steps.png
    """
    if as_markdown + as_csv + as_json > 1:
        raise UserError("--markdown, --csv and --json are three forms: give one")
    if plot is not None:
        plots.check_path(plot)
    root = output.runs_dir(runs_dir)
    found = collect(targets(root, runs))
    place = 0
    if baseline is not None:
        wanted = [one for aim in targets(root, [baseline]) for one in evaluations(aim)]
        if len(wanted) > 1:
            names = ", ".join(f"{one.run}/{one.stage}" for one in wanted)
            raise UserError(f"--baseline {baseline}: {len(wanted)} evaluations", hint=f"name one of {names}")
        keys = [(one.run, one.stage) for one in found]
        key = wanted[0].run, wanted[0].stage
        found, place = (found, keys.index(key)) if key in keys else ([*wanted, *found], 0)
    rows = compared(found, place)
    base = rows[place]
    if as_json:
        output.print_json("compare", page.dump(rows, base))
    elif as_csv:
        print(csv_text(page.flat(row, base) for row in rows), end="")
    elif as_markdown:
        print(page.markdown(rows, base))
    else:
        print(page.text(rows, base))
    if plot is not None:
        plots.picture({plots.STEPS: page.points(rows)}, plot)
        output.note(f"wrote {plot}")
    if len(rows) == 1:
        output.note("one evaluation: nothing to compare it with")
        output.next_commands([(f"latentctl compare {found[0].run} OTHER_RUN", "name another one too")])
    if strict and any(row.marks for row in rows):
        output.note(f"{sum(bool(row.marks) for row in rows)} of {len(rows)} rows have marks")
        raise typer.Exit(Exit.NEGATIVE)
