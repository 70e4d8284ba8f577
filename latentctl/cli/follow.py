"""Following runs to their end: live lines on a terminal, plain ones elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from latentctl.cli import output
from latentctl.errors import Exit, UserError
from latentctl.launch.observe import Observed, observe
from latentctl.record.paths import RunPaths
from latentctl.record.states import TERMINAL
from latentctl.report import progress, result, text
from latentctl.report.show import outcome_dump
from latentctl.runs.sweeps import find_sweep, points_of
from latentctl.runs.view import JobView, RunView

POLL_S = 0.5
SLURM_POLL_S = 5.0
"""Slurm's controller is shared: it is not asked more often."""
PLAIN_EVERY_S = 10.0
"""Without a terminal: a line when a state changes, else so often."""
_SHOWN_LINES = 15
SUBMITTING_S = 30.0
"""Whoever made a run has submitted its jobs by then."""


def follow(runs: Sequence[RunPaths], name: str, *, as_json: bool = False, quiet: bool = False) -> int:
    """Show progress on stderr until every job has ended, then the result on stdout; `quiet`: without it.

    Returns the exit code: 0 all succeeded, 1 not, 5 interrupted by Ctrl-C: the jobs go on.
    """
    try:
        seen = _watch(runs)
    except KeyboardInterrupt:
        output.note(f"\n{name} goes on; only the waiting ended")
        output.next_commands(
            [
                (f"latentctl status {name} --watch", "follow it again"),
                (f"latentctl logs {runs[0].id} -f", "what it writes"),
                (f"latentctl cancel {name}", "stop it"),
            ]
        )
        return Exit.INTERRUPTED
    return conclude(seen.views, name, as_json=as_json, quiet=quiet)


def conclude(views: Sequence[RunView], name: str, *, as_json: bool, quiet: bool = False) -> int:
    """The result table, or why there is none."""
    good = bool(views) and all(v.state == "succeeded" for v in views)
    if quiet and good:
        return Exit.OK
    if as_json:
        output.print_json("result", {"name": name, "runs": [outcome_dump(v) for v in views]})
    elif not quiet:
        _print_results(views, name)
    for view in [v for v in views if v.state != "succeeded"][:3]:
        print_failure(view)
    if not views:
        output.note(f"error: the run directory of {name} is gone")
    commands = [(f"latentctl show {name}", "spec, attempts, metrics, result")]
    if not good:
        first = next((v.run.id for v in views if v.state != "succeeded"), name)
        commands += [(f"latentctl logs {first}", "all output"), (f"latentctl retry {first}", "resume it")]
    output.next_commands(commands)
    return Exit.OK if good else Exit.NEGATIVE


def _print_results(views: Sequence[RunView], name: str) -> None:
    colour = text.coloured(sys.stdout)
    root = views[0].run.root.parent if views else None
    sweep = None if root is None else find_sweep(root, name)
    if root is not None and sweep is not None:
        from latentctl.report.many import sweep_table

        done = {v.run.id for v in views if v.state == "succeeded"}
        table = sweep_table([p for p in points_of(root, sweep) if p.run.id in done], colour=colour)
    else:
        parts = [result.run_table(result.stage_results(v.run, v.plan), colour=colour) for v in views]
        table = "\n\n".join(part for part in parts if part)
    if table:
        print(table, flush=True)


def print_failure(view: RunView) -> None:
    """The first failing rank's error lines, as they stand in the attempt."""
    job = progress.current(view)
    failure = job.failure
    what = failure.message if failure and failure.message else job.why or ""
    output.note(f"error: {view.run.id}: job {job.name} {job.state}" + (f": {what}" if what else ""))
    if failure is None:
        return
    if failure.rank is not None or failure.kind:
        rank = f"rank {failure.rank}, " if failure.rank is not None else ""
        output.note(f"  {rank}attempt {failure.number}, class {failure.kind or 'unknown'}")
    for line in failure.evidence[-_SHOWN_LINES:]:
        output.note(f"  | {line}")
    if failure.hint:
        output.note(f"hint: {failure.hint}")


def _watch(runs: Sequence[RunPaths]) -> Observed:
    """Poll until every run is done."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        console = Console(stderr=True, highlight=False)
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            return _until_done(
                runs, lambda seen: live.update(Text.from_ansi(_screen(seen.views, console.width)))
            )
    return _until_done(runs, _Plain().show)


def _until_done(runs: Sequence[RunPaths], show: Callable[[Observed], None]) -> Observed:
    begin = time.monotonic()
    while True:
        seen = observe(runs)
        show(seen)
        if all(v.done for v in seen.views):
            return seen
        if time.monotonic() - begin > SUBMITTING_S:
            _refuse_unsubmitted(seen.views)
        slurm = any(v.plan.cluster.get("executor") == "slurm" for v in seen.views)
        time.sleep(SLURM_POLL_S if slurm else POLL_S)


def _refuse_unsubmitted(views: Sequence[RunView]) -> None:
    """A run whose submission was cut off (kill -9, power) would be waited for without end."""
    for view in views:
        if all(j.state in TERMINAL or j.state == "planned" for j in view.jobs) and not view.done:
            raise UserError(
                f"{view.run.id} was never submitted to the end: there is nothing to wait for",
                hint=f"`latentctl retry {view.run.id}` submits it",
            )


def _screen(views: Sequence[RunView], width: int) -> str:
    """All jobs of one run, or one line per run of a sweep; what does not fit is counted."""
    colour = text.coloured(sys.stderr)
    rows: list[tuple[str, JobView]]
    if len(views) == 1:
        rows = [(job.name, job) for job in views[0].jobs]
    else:
        rows = [(view.run.id, progress.current(view)) for view in views]
    shown = rows[:20]
    label = max((len(name) for name, _ in shown), default=0)
    lines = []
    for name, job in shown:
        line = text.clip(f"{name:<{label}}  {_bar(job)}{progress.line(job)}", width - 1)
        lines.append(text.paint(line, job.state, colour=colour))
    if len(rows) > len(shown):
        lines.append(f"and {len(rows) - len(shown)} more")
    return "\n".join(lines)


def _bar(job: JobView, width: int = 20) -> str:
    beat = job.heartbeat or {}
    if job.state != "running" or not beat.get("total"):
        return ""
    full = round(width * min(1.0, beat["step"] / beat["total"]))
    return "━" * full + "─" * (width - full) + "  "


class _Plain:
    """Lines for a log: each change of state, and now and then the progress."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], tuple[tuple[str, str], float]] = {}

    def show(self, seen: Observed) -> None:
        for trouble in seen.unanswered:
            self._say(("", trouble), ("", trouble), trouble)
        for view in seen.views:
            for job in view.jobs:
                state = (job.state, progress.stage(job))
                name = view.run.id if len(view.jobs) == 1 else f"{view.run.id} {job.name}"
                self._say(
                    (view.run.id, job.name),
                    state,
                    f"{name}: {progress.line(job)}",
                    live=job.state == "running",
                )

    def _say(self, key: tuple[str, str], state: tuple[str, str], line: str, *, live: bool = False) -> None:
        before = self._said.get(key)
        due = before is not None and live and time.monotonic() - before[1] >= PLAIN_EVERY_S
        if before is None or before[0] != state or due:
            self._said[key] = (state, time.monotonic())
            output.note(line)
