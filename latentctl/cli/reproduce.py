"""`latentctl reproduce`: a run once more, from what it kept."""

from __future__ import annotations

from typing import Annotated

import typer

from latentctl.cli import complete, follow, output
from latentctl.errors import Exit
from latentctl.runs.index import find_run

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def reproduce(
    run: Annotated[
        str,
        typer.Argument(
            help="A run; a prefix or @last will do.", autocompletion=complete.runs, show_default=False
        ),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Wait for it, and compare with what was recorded.")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Elsewhere than the run.", show_default=False)
    ] = None,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Run it once more: what was asked then, by the code that the run kept, whatever the checkout holds now.

    With --verify exit code 1 where a number lies outside its recorded interval.

    Example: latentctl reproduce qwen3-aime-1a2b3c4d --verify
    """
    from latentctl.launch import reproduce as again
    from latentctl.launch.profile import profile_named
    from latentctl.report import verify as verdicts
    from latentctl.report.diff import differences

    root = output.runs_dir(runs_dir)
    before = find_run(root, run)
    profile = profile_named(cluster) if cluster else None
    started = again.reproduce(before, root, profile=profile)
    after = started.run
    changed = differences(before, after).environment
    output.note(f"submitted {after.id}: spec and code of {before.id}")
    for change in changed[:_SHOWN]:
        output.note(f"note: {change.key} was {change.before or 'absent'}, now {change.after or 'absent'}")
    if len(changed) > _SHOWN:
        output.note(f"note: {len(changed) - _SHOWN} more: latentctl diff {before.id} {after.id}")
    for problem in started.findings:
        output.note(f"warning: {problem.text()}")
    row = {"run": after.id, "of": before.id, "environment": [c.dump() for c in changed]}
    if not verify:
        if as_json:
            output.print_json("reproduced", row)
        output.next_commands(
            [
                (f"latentctl status {after.id} --watch", "follow it"),
                (f"latentctl diff {before.id} {after.id}", "what differs, when it has ended"),
            ]
        )
        return
    code = follow.follow([after], after.id, quiet=True)
    found = verdicts.rows(before, after)
    holds = code == Exit.OK and verdicts.holds(found)
    if as_json:
        output.print_json("reproduced", {**row, "holds": holds, "numbers": [r.dump() for r in found]})
    else:
        print(verdicts.text(found))
        output.note("it holds" if holds else "it does not hold")
    if not holds:
        raise typer.Exit(code or Exit.NEGATIVE)


_SHOWN = 8
