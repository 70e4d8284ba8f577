"""`latentctl retry`: resume a failed, cancelled or lost run from its checkpoints."""

from __future__ import annotations

from typing import Annotated

import typer

from latentctl.cli import complete, launching, output
from latentctl.errors import UserError
from latentctl.runs.sweeps import select

_EACH = 10
"""So many are named one by one."""
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def retry(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Runs or sweeps; a prefix or @last will do.",
            autocompletion=complete.runs,
            show_default=False,
        ),
    ],
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Only those that failed or got lost, without a word of others."),
    ] = False,
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
    views = [v for v in seen.views if not failed or v.state in ("failed", "lost")]
    if not views:
        output.note(f"none of {len(seen.views)} runs has failed: nothing to do")
        return output.print_json("resubmitted", {"runs": []}) if as_json else None
    able, problems = [], []
    for view in views:
        problem = retryable(view)
        (problems.append(problem) if problem else able.append(view))
    if problems and not able:
        raise UserError(problems=problems)
    for problem in problems:
        output.note(f"left as it is: {problem.text()}")
    done = resubmit(able, root)
    if len(done) > _EACH:
        output.note(f"resubmitted {len(done)} runs")
    else:
        for run, jobs in done.items():
            output.note(f"resubmitted {run}: {', '.join(jobs)}")
    if as_json and not wait:
        output.print_json("resubmitted", {"runs": [{"run": r, "jobs": jobs} for r, jobs in done.items()]})
    name = able[0].run.id if len(able) == 1 else runs[0]
    launching.finish([v.run for v in able], name, wait=wait, as_json=as_json and wait)
