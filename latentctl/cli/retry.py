"""`latentctl retry`: resume a failed, cancelled or lost run from its checkpoints."""

from __future__ import annotations

from typing import Annotated

import typer

from latentctl.cli import launching, output
from latentctl.errors import UserError
from latentctl.runs.sweeps import select

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def retry(
    runs: Annotated[
        list[str], typer.Argument(help="Runs or sweeps; a prefix or @last will do.", show_default=False)
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Follow until it ends; Ctrl-C lets it go on.")] = False,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Resume a failed, cancelled or lost run from its checkpoints: a new attempt of each job that has not
    succeeded.

    The run's own spec and code are used, whatever the checkout holds now. Example: latentctl retry @last
    --wait
    """
    from latentctl.launch.again import resubmit, retryable
    from latentctl.launch.observe import observe

    root = output.runs_dir(runs_dir)
    seen = observe(select(root, runs))
    able, problems = [], []
    for view in seen.views:
        problem = retryable(view)
        (problems.append(problem) if problem else able.append(view))
    if problems and not able:
        raise UserError(problems=problems)
    for problem in problems:
        output.note(f"left as it is: {problem.text()}")
    rows = []
    for view in able:
        jobs = resubmit(view)
        rows.append({"run": view.run.id, "jobs": jobs})
        output.note(f"resubmitted {view.run.id}: {', '.join(jobs)}")
    if as_json and not wait:
        output.print_json("resubmitted", {"runs": rows})
    name = able[0].run.id if len(able) == 1 else runs[0]
    launching.finish([v.run for v in able], name, wait=wait, as_json=as_json and wait)
