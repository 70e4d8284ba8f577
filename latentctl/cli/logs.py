"""`latentctl logs`: what the ranks of a job wrote, across requeues."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from latentctl.cli import complete, output
from latentctl.errors import Exit, UserError
from latentctl.launch.observe import executor_of, observe_one
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan
from latentctl.report.progress import current
from latentctl.runs.index import find_run
from latentctl.runs.logfiles import LogFile, Tail, last_lines, rank_logs
from latentctl.runs.view import RunView

app = typer.Typer(add_completion=False, rich_markup_mode=None)
POLL_S = 0.5
STATE_EVERY_S = 5.0


@app.command()
def logs(
    run: Annotated[
        str,
        typer.Argument(
            help="A run; a prefix or @last will do.", autocompletion=complete.runs, show_default=False
        ),
    ],
    job: Annotated[
        str | None, typer.Option("--job", help="Job or stage; the one that runs or failed if unsaid.")
    ] = None,
    rank: Annotated[str, typer.Option("--rank", help="A rank's number, or all.")] = "0",
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="One attempt; all if unsaid.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job has ended.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only what went to stderr.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", min=0, help="Only the last N lines of each file.")
    ] = None,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """What the ranks of a job wrote, across requeues; the scheduler's log where there is nothing yet.

    Example: latentctl logs @last -f --rank all
    """
    if as_json and follow:
        raise UserError("--json shows what is there; it does not go with -f")
    view = observe_one(find_run(output.runs_dir(runs_dir), run))
    plan = _job(view, job)
    wanted = _rank(rank, plan)
    _check_attempt(view.run, plan, attempt)
    streams = ("err",) if stderr else ("out", "err")

    def files() -> list[LogFile]:
        return rank_logs(view.run.job(plan.name), rank=wanted, attempt=attempt, streams=streams)

    if as_json:
        rows = [{**vars(f), "path": str(f.path), "lines": last_lines(f.path, tail or 1000)} for f in files()]
        scheduler = [str(p) for p in executor_of(view.plan).scheduler_logs(view.run, plan)]
        output.print_json(
            "logs", {"run": view.run.id, "job": plan.name, "files": rows, "scheduler": scheduler}
        )
    elif follow:
        _follow(view.run, plan, files, tail)
    else:
        _print(view, plan, files(), tail)


def _job(view: RunView, name: str | None) -> JobPlan:
    """The job of that name, or of the stage of that name."""
    if name is None:
        return current(view).plan
    for plan in view.plan.jobs:
        if name == plan.name or name in plan.stages:
            return plan
    names = ", ".join(j.name for j in view.plan.jobs)
    raise UserError(
        f"{view.run.id} has no job or stage {name!r}",
        hint=f"jobs: {names}",
        code=Exit.NOT_FOUND,
        kind="not_found",
    )


def _rank(text: str, plan: JobPlan) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise UserError(f"--rank {text}: a number or all")
    if int(text) >= plan.world_size:
        raise UserError(
            f"job {plan.name} has no rank {text}",
            hint=f"its ranks are 0 to {plan.world_size - 1}",
            code=Exit.NOT_FOUND,
            kind="not_found",
        )
    return int(text)


def _check_attempt(run: RunPaths, plan: JobPlan, attempt: int | None) -> None:
    have = [a.number for a in run.job(plan.name).attempts()]
    if attempt is not None and attempt not in have:
        raise UserError(
            f"job {plan.name} has no attempt {attempt}",
            hint=f"attempts: {', '.join(map(str, have)) or 'none yet'}",
            code=Exit.NOT_FOUND,
            kind="not_found",
        )


def _print(view: RunView, plan: JobPlan, files: Sequence[LogFile], tail: int | None) -> None:
    """Everything there is. Worker logs that are empty say as little as absent ones: the scheduler's then."""
    filled = [f for f in files if f.path.stat().st_size]
    many = len(filled) > 1
    for file in filled:
        if many:
            output.note(f"==> attempt {file.attempt}, rank {file.rank}, std{file.stream} <==")
        _dump(file.path, tail)
    if not filled:
        _print_scheduler(view, plan, tail)


def _print_scheduler(view: RunView, plan: JobPlan, tail: int | None) -> None:
    paths = [p for p in executor_of(view.plan).scheduler_logs(view.run, plan) if p.stat().st_size]
    output.note(f"job {plan.name}: no output of its workers yet" + (", the scheduler's:" if paths else ""))
    for path in paths:
        output.note(f"==> {path} <==")
        _dump(path, tail)


def _dump(path: Path, tail: int | None) -> None:
    if tail is not None:
        for line in last_lines(path, tail):
            print(line)
        return
    with open(path, encoding="utf-8", errors="replace", newline="") as f:
        last = ""
        for line in f:
            print(line, end="")
            last = line
    if last and not last.endswith("\n"):
        print()


def _follow(run: RunPaths, plan: JobPlan, files: Callable[[], list[LogFile]], tail: int | None) -> None:
    """Print new lines until the job has ended, attempts to come included."""
    tails: dict[Path, Tail] = {}
    asked = 0.0
    state = ""
    done = False
    many = plan.world_size > 1
    while True:
        last_round = done
        for file in files():
            known = file.path in tails
            reader = tails.setdefault(file.path, Tail(file.path))
            lines = list(reader.lines())
            if last_round and (rest := reader.rest()):
                lines.append(rest)
            if not known and tail is not None:
                lines = lines[len(lines) - min(tail, len(lines)) :]
            mark = f"[{file.attempt}.{file.rank}] " if many else ""
            for line in lines:
                print(f"{mark}{line}", flush=True)
        if last_round:
            break
        if time.monotonic() - asked > STATE_EVERY_S:
            asked = time.monotonic()
            view = observe_one(run)
            state = next(j.state for j in view.jobs if j.name == plan.name)
            done = state in ("succeeded", "failed", "cancelled", "lost", "skipped", "unknown")
        if not done:
            time.sleep(POLL_S)
    if not tails:
        _print_scheduler(observe_one(run), plan, tail)
    output.note(f"job {plan.name} has ended: {state}")
