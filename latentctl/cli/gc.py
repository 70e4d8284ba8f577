"""`latentctl gc`: checkpoints that nobody needs any more."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated

import typer

from latentctl.cli import complete, output
from latentctl.errors import UserError
from latentctl.launch.observe import observe
from latentctl.record import checkpoint
from latentctl.record.sizes import size_text
from latentctl.runs.garbage import garbage, references
from latentctl.runs.index import all_runs
from latentctl.runs.sweeps import select

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def gc(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Runs or sweeps; unsaid: all.", autocompletion=complete.runs, show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, delete nothing.")] = False,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Delete checkpoints that a later one replaces.

    Of jobs that have ended, and only where a whole, later checkpoint of the same spec stands beside. What is
    the best one, what a model was published from, and what any run here names as `STAGE@STEP` or by its path
    stays. Models, samples and results are never touched.

    Example: latentctl gc --dry-run
    """
    root = output.runs_dir(runs_dir)
    everything = all_runs(root)
    seen = observe(select(root, runs) if runs else everything)
    rows = []
    for found in garbage(seen.views, references(everything)):
        if not dry_run:
            try:
                checkpoint.remove(found.path)
            except OSError as error:
                raise UserError(
                    f"cannot be deleted: {error.strerror}; {len(rows)} checkpoints were deleted before it",
                    where=str(found.path),
                ) from None
        rows.append({"run": found.run.id, "stage": found.stage, "step": found.step, "bytes": found.bytes})
    total = sum(r["bytes"] for r in rows)
    if as_json:
        output.print_json("gc", {"deleted": not dry_run, "bytes": total, "checkpoints": rows})
        return
    by_stage: dict[tuple[str, str], list[dict[str, int]]] = defaultdict(list)
    for row in rows:
        by_stage[row["run"], row["stage"]].append(row)
    for (run, stage), of_it in by_stage.items():
        steps = ", ".join(str(r["step"]) for r in of_it)
        print(
            f"{run}/{stage}: step{'s' * (len(of_it) > 1)} {steps}",
            size_text(sum(r["bytes"] for r in of_it)),
            sep="  ",
        )
    for run, why in seen.damaged.items():
        output.note(f"{run} is left alone: {why}")
    count = f"{len(rows)} checkpoint{'s' * (len(rows) != 1)}, {size_text(total)}"
    if not rows:
        output.note(
            "nothing to delete: what is not the newest of its stage is referred to, or its job goes on"
        )
    elif dry_run:
        output.note(f"{count} would be deleted")
        output.next_commands([(" ".join(["latentctl gc", *(runs or [])]), "delete them")])
    else:
        output.note(f"deleted {count}")
