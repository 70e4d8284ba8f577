"""From a point of a recipe to a submitted run: prepared, submitted, and taken back where that fails."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from latentctl.errors import Problem, UserError
from latentctl.launch import executor_for
from latentctl.plan.build import build_plan
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.runs import create

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile


@dataclass(frozen=True)
class Started:
    """A run that `start` submitted, or the one that existed."""

    run: RunPaths
    plan: Plan
    created: bool
    findings: list[Problem] = field(default_factory=list)
    """What the scheduler accepted but says it will never run."""


class Held:
    """Whether somebody asked to stop while it was not the moment."""

    def __init__(self) -> None:
        self.came = False


@contextlib.contextmanager
def held_interrupts() -> Iterator[Held]:
    """Note INT, TERM and HUP instead of stopping at any line; a second INT stops at once all the same.

    So a submission is either whole or taken back. Signals reach the main thread only: elsewhere nothing is
    held.
    """
    held = Held()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return

    def note(number: int, _frame: FrameType | None) -> None:
        if held.came and number == signal.SIGINT:
            raise KeyboardInterrupt
        held.came = True

    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in caught}
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start(
    point: create.Point,
    profile: ClusterProfile,
    runs_dir: Path,
    recipe_bytes: bytes,
    *,
    rerun: bool = False,
    command_line: Sequence[str] | None = None,
    identity: create.Identity | None = None,
    published: Callable[[RunPaths], None] | None = None,
) -> Started:
    """Make the run and submit its jobs. The same thing submitted before is named, not submitted again.

    Raises UserError where the plan, the disk or the scheduler refuses, KeyboardInterrupt where the person
    did; then nothing is left: no directory, no job.
    """
    identity = identity or create.identify(point)
    before = [] if rerun else create.existing(identity, runs_dir)
    if before:
        return Started(before[-1], Plan.load(before[-1].plan), created=False)
    executor = executor_for(profile)
    make_plan = partial(build_plan, point.experiment, profile)
    with held_interrupts() as held:
        prepared = create.prepare(
            point,
            profile,
            runs_dir,
            recipe_bytes,
            make_plan,
            identity=identity,
            rerun=rerun,
            command_line=command_line,
        )
        run, plan = prepared.run, prepared.plan
        if not prepared.created:
            return Started(run, plan, created=False)
        handles = []
        try:
            if not held.came:
                handles = executor.submit(run, plan)
            if held.came:
                raise KeyboardInterrupt
            if published is not None:
                published(run)
        except BaseException as error:
            with contextlib.suppress(UserError):
                if handles:
                    executor.cancel(run, handles)
            create.discard(run)
            if held.came and not isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt from error  # Ctrl-C ended the scheduler's command too
            raise
    findings = getattr(executor, "findings", None)
    return Started(run, plan, created=True, findings=findings(handles) if findings and handles else [])
