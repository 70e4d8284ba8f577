"""Runs of a stand-in worker package without torch, with real supervisors and real processes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentctl.launch.local import LocalExecutor
from latentctl.launch.protocol import Handle
from latentctl.record.atomic import try_read_json
from latentctl.record.journal import read
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.record.states import fold

REPO = Path(__file__).resolve().parents[3]
WORKER = Path(__file__).with_name("standin_worker.py")


def job(name: str, *after: str, tasks: int = 1, gpus: int = 0, time_s: int = 60, **changed: Any) -> JobPlan:
    given = {
        "name": name, "stages": [name], "after": list(after), "role": "train", "nodes": 1,
        "tasks_per_node": tasks, "gpus_per_node": gpus, "cpus_per_task": None, "mem_mb": None,
        "time_s": time_s, "interpreter": sys.executable,
    }  # fmt: skip
    return JobPlan(**{**given, **changed})


@dataclass
class LocalRun:
    """One run and the executor that runs it."""

    paths: RunPaths
    plan: Plan
    executor: LocalExecutor

    def submit(self) -> list[Handle]:
        return self.executor.submit(self.paths, self.plan)

    def start_and_wait(self, timeout: float = 20) -> LocalRun:
        handles = self.submit()
        self.wait(handles, timeout)
        return self

    def wait(self, handles: list[Handle], timeout: float = 20) -> None:
        eventually(lambda: not self.alive(handles), f"the end of {self.paths.id}", timeout)

    def alive(self, handles: list[Handle]) -> bool:
        return any(fact.state == "alive" for fact in self.executor.query(handles))

    def state(self, name: str) -> str:
        return fold(read(self.paths.journal), name)[0]

    def events(self, name: str) -> list[str]:
        rows = [e for e in read(self.paths.journal) if e.get("job") == name]
        return [e["event"] for e in sorted(rows, key=lambda e: e["time"])]

    def end(self, name: str, attempt: int | None = None) -> dict[str, Any]:
        attempts = self.paths.job(name).attempts()
        paths = attempts[-1] if attempt is None else self.paths.job(name).attempt(attempt)
        return try_read_json(paths.end) or {}

    def notes(self, name: str, event: str | None = None) -> list[dict[str, Any]]:
        """What the stand-in worker wrote down about itself, in order."""
        path = self.paths.job(name).root / "notes.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [r for r in rows if event is None or r["event"] == event]

    def wait_for(self, name: str, event: str, count: int = 1) -> list[dict[str, Any]]:
        eventually(lambda: len(self.notes(name, event)) >= count, f"{event} of {name}")
        return self.notes(name, event)


def eventually(true: Callable[[], object], what: str, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        time.sleep(0.02)


MakeRun = Callable[..., LocalRun]
