"""Real run directories, and the real worker in real processes: what the tests of this folder share."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jobs.data.plugins import load_plugins
from latentctl.record.attempt import claim
from latentctl.record.paths import JobPaths, RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.runs import create
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.experiment import Experiment

LIGHT = Path(__file__).with_name("light.py")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@dataclass
class Finished:
    """One rank's process after its end."""

    code: int
    out: str
    err: str


class Bench:
    """One run with its jobs, started as the entry would start them."""

    def __init__(self, run: RunPaths, plan: Plan) -> None:
        self.run, self.plan = run, plan

    def job(self, name: str = "main") -> JobPaths:
        return self.run.job(name)

    def spawn(
        self,
        job: str = "main",
        *,
        attempt: int | None = None,
        env: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> list[subprocess.Popen[str]]:
        """Start every rank of a new attempt."""
        number = attempt or claim(self.job(job), f"test:{os.urandom(4).hex()}", {}).number
        size, port = self.plan.job(job).world_size, free_port()
        command = [sys.executable, "-m", "jobs.worker", str(self.run.root), job, str(number)]
        return [
            subprocess.Popen(
                command,
                cwd=self.run.root,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={
                    **os.environ,
                    "PYTHONPATH": str(self.run.code),
                    "PYTHONSAFEPATH": "1",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(size),
                    "LOCAL_WORLD_SIZE": str(size),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    **(env or {}),
                },
            )
            for rank in range(size)
        ]

    def wait(self, processes: list[subprocess.Popen[str]], timeout: float = 60) -> list[Finished]:
        done = []
        try:
            for p in processes:
                out, err = p.communicate(timeout=timeout)
                done.append(Finished(p.returncode, out, err))
        finally:
            for p in processes:
                p.kill()
        return done

    def work(self, job: str = "main", **kwargs: Any) -> list[Finished]:
        return self.wait(self.spawn(job, **kwargs))

    def failure(self, rank: int = 0, *, job: str = "main") -> dict[str, Any]:
        return json.loads(self.job(job).attempts()[-1].failure(rank).read_text())

    def metrics(self, job: str = "main") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.job(job).metrics.read_text().splitlines()]


def stage(name: str = "count", method: str = "light", **settings: Any) -> dict[str, Any]:
    model = {"init": {}}
    return {"name": name, "method": method, "model": model, "dataset": {"name": "none"}, method: settings}


def make(
    runs_dir: Path,
    stages: list[dict[str, Any]],
    *,
    jobs: dict[str, list[str]] | None = None,
    after: dict[str, list[str]] | None = None,
    size: int = 1,
    plugins: tuple[Path, ...] = (LIGHT,),
    debug: bool = False,
    **experiment: Any,
) -> Bench:
    """A run directory as `latentctl submit` would make it; `jobs` maps each job to its stages."""
    names = [str(p) for p in plugins]
    load_plugins(names)
    spec = Experiment.model_validate({"name": "t", "stages": stages, "plugins": names, **experiment})
    template = JobPlan(
        name="main", stages=[], after=[], role="train", nodes=1, tasks_per_node=size, gpus_per_node=0,
        cpus_per_task=1, mem_mb=None, time_s=600, interpreter=sys.executable,
    )  # fmt: skip
    job_plans = [
        replace(template, name=job, stages=owned, after=(after or {}).get(job, []))
        for job, owned in (jobs or {"main": [s.name for s in spec.stages]}).items()
    ]
    point: Any = SimpleNamespace(experiment=spec, provenance={})
    made = create.prepare(
        point,
        ClusterProfile(name="here", executor="local"),
        runs_dir,
        b"name: t\n",
        lambda run_id, digest: Plan(run_id, digest, {}, job_plans, debug=debug),
        rerun=True,
    )
    return Bench(made.run, made.plan)


def wait_for(ready: Callable[[], bool], timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
