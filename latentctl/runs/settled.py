"""Runs in which nothing goes on any more, remembered as `status` shows them: finished runs are read once.

`<runs_dir>/.settled` is a cache: made again wherever it is missing, damaged or of another version. It has a
line for each run: what a table needs, a tab, and what `--json` prints, parsed only where it is asked for.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentctl import __version__
from latentctl.record.atomic import write_text
from latentctl.record.paths import RunPaths
from latentctl.record.states import JobState
from latentctl.runs.view import RunView, asked_of_scheduler

VERSION = 1
_QUIET_S = 60.0
"""A journal written to more recently is read again: its writers may not be done."""


@dataclass(frozen=True)
class Settled:
    """A run of which all jobs have ended."""

    run: RunPaths
    state: JobState
    states: list[JobState]
    """Of its jobs."""
    row: list[str]
    """As the table of `status` shows it."""
    text: str
    """What `--json` prints."""

    done = True

    def dump(self) -> dict[str, Any]:
        """For `--json`."""
        return json.loads(self.text)


Sign = tuple[int, int]
"""When a run's plan and its journal changed last, in nanoseconds. A retry or a requeue writes to the
journal."""


def sign(run: RunPaths) -> Sign | None:
    """To be taken before the run is read. None: it is gone."""
    try:
        return run.plan.stat().st_mtime_ns, run.journal.stat().st_mtime_ns
    except OSError:
        return None


class SettledRuns:
    """The cache of one folder of runs."""

    def __init__(self, runs_dir: Path) -> None:
        self.path = runs_dir / ".settled"
        self._header = json.dumps({"version": VERSION, "latentctl": __version__, "runs": str(runs_dir)})
        self._lines = self._read()
        self._grown = False

    def recall(self, run: RunPaths) -> Settled | None:
        """The run as it was remembered; None where it was not, or has changed since."""
        line = self._lines.get(run.id)
        if line is None:
            return None
        try:
            head, text = line.split("\t", 1)
            fields = json.loads(head)
            found = Settled(run, fields["state"], fields["states"], fields["row"], text)
            return found if tuple(fields["sign"]) == sign(run) else None
        except (ValueError, KeyError, TypeError):
            return None

    def add(self, view: RunView, row: list[str], signed: Sign | None) -> None:
        """Remember a run, unless it may still change. `signed`: its sign from before it was read."""
        if signed is None or time.time() - signed[1] / 1e9 < _QUIET_S:
            return
        if not view.done or any(True for _ in asked_of_scheduler(view)):
            return
        head = {
            "run": view.run.id,
            "sign": signed,
            "state": view.state,
            "states": view.states,
            "row": row,
        }
        self._lines[view.run.id] = f"{json.dumps(head)}\t{json.dumps(view.dump())}"
        self._grown = True

    def save(self) -> None:
        """Write what is new; runs that are gone are forgotten. Of two commands at once the later one wins,
        and the other's runs are read again. A folder that may not be written is let be."""
        if not self._grown:
            return
        runs = self.path.parent
        kept = [line for run, line in self._lines.items() if RunPaths(runs / run).plan.is_file()]
        with contextlib.suppress(OSError):
            write_text(self.path, "\n".join([self._header, *kept]) + "\n")

    def _read(self) -> dict[str, str]:
        """Run id -> its line."""
        try:
            header, *lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):  # none, or an empty or damaged one
            return {}
        if header != self._header:
            return {}
        start = len('{"run": "')
        return {line[start : line.find('"', start)]: line for line in lines}
