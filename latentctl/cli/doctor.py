"""`latentctl doctor`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from latentctl.cli import output
from latentctl.errors import Exit

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def doctor(runs_dir: output.RunsDir = None, as_json: output.Json = False) -> None:
    """What this installation can do, and what is missing. Exit 1 when something that is needed is missing."""
    from latentctl.launch import installation

    found: list[installation.Finding] = []
    for finding in installation.examine(output.runs_dir(runs_dir)):
        found.append(finding)
        if not as_json:
            print(f"{finding.level:<9}{finding.name:<14}{finding.text}", flush=True)
            if finding.hint and finding.level != "ok":
                print(f"{'':9}{'':14}hint: {finding.hint}")
    missing = [f for f in found if f.level == "missing"]
    if as_json:
        output.print_json("doctor", {"ok": not missing, "findings": [asdict(f) for f in found]})
    if missing:
        raise typer.Exit(Exit.NEGATIVE)
