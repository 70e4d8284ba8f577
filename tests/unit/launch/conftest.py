"""A small world for the tests of launching."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launch_harness import REPO, WORKER, LocalRun, MakeRun

from latentctl.launch.local import LocalExecutor
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.spec.cluster import ClusterProfile


@pytest.fixture(autouse=True)
def _small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own state folder, short polls, no GPU of the real machine."""
    for name, value in {
        "STATE_DIR": str(tmp_path / "state"), "GPUS": "0", "POLL_S": "0.03", "WATCH_S": "0.1",
        "SETTLE_S": "3", "KILL_WAIT_S": "1", "REQUEUE_KILL_S": "0.1", "JOIN_S": "10",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"LATENTCTL_{name}", value)


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[MakeRun]:
    """make_run(job("a"), behave={"a": [["sleep", 1]]}, **profile fields): a run ready to submit."""
    made: list[LocalRun] = []

    def make(
        *jobs: JobPlan, behave: dict[str, list[Any]] | None = None, name: str = "", **fields: Any
    ) -> LocalRun:
        root = tmp_path / "runs" / (name or f"run-{len(made)}")
        (root / "code" / "jobs").mkdir(parents=True)
        (root / "code" / "jobs" / "__init__.py").touch()
        (root / "code" / "jobs" / "worker.py").symlink_to(WORKER)
        (root / "code" / "latentctl").symlink_to(REPO / "latentctl")
        (root / "behave.json").write_text(json.dumps(behave or {}))
        profile = ClusterProfile(**{"name": "local", "executor": "local", **fields})
        paths = RunPaths(root)
        plan = Plan(root.name, "0" * 64, profile.model_dump(mode="json"), list(jobs))
        plan.save(paths.plan)
        made.append(LocalRun(paths, plan, LocalExecutor(profile)))
        return made[-1]

    yield make
    for run in made:
        if run.paths.plan.exists():
            run.executor.cancel(run.paths, [])
