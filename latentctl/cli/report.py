"""`latentctl report`: the table of many evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentctl.cli import output
from latentctl.errors import UserError
from latentctl.report import many
from latentctl.report import plot as plots
from latentctl.report.evals import collect, gpu_hours, targets
from latentctl.report.many import fold

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN[/STAGE]",
            help="Runs, single evaluations, or sweeps; a prefix or @last will do.",
            show_default=False,
        ),
    ],
    as_csv: Annotated[bool, typer.Option("--csv", help="Every number in full precision.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="A Markdown table.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="A LaTeX tabular (needs booktabs).")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write it here instead of on stdout.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="Write accuracy against disturbed latent steps and against steps: .png, .svg or .pdf.",
        ),
    ] = None,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """The table of many evaluations: accuracy with its 95 % interval, visible tokens, latent steps, the share
    of them that training disturbed, seconds per problem. A sweep has a row per point, its seeds folded into
    mean and interval.

    Example: latentctl report my-sweep cot-baseline --latex --out table.tex --plot thresholds.png
    """
    if plot is not None:
        plots.check_path(plot)
    if as_csv + as_markdown + as_latex + as_json > 1:
        raise UserError("--csv, --markdown, --latex and --json are four forms: give one")
    if as_json and out is not None:
        raise UserError("--json goes to stdout: --out is for the tables")
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError("no such folder", where=str(out.absolute().parent))
    aims = targets(output.runs_dir(runs_dir), runs)
    rows = fold(collect(aims))
    hours = gpu_hours(aims)
    if plot is not None:
        plots.picture(many.panels(rows), plot)
        output.note(f"wrote {plot}")
    if as_json:
        output.print_json("report", {"rows": many.flat(rows), "gpu_hours": hours._asdict()})
        return
    if hours.asked:
        output.note(f"GPU-hours: {hours.used:.2f} used, {hours.asked:g} asked for at most")
    form = many.csv if as_csv else many.markdown if as_markdown else many.latex if as_latex else many.text
    page = form(rows).rstrip("\n") + "\n"
    if out is None:
        print(page, end="")
        return
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(out)) from error
    output.note(f"wrote {out}: {len(rows)} rows")
