"""Real daemons: a devbox of the tests' own, or the one that LATENTCTL_TEST_DEVBOX names (its folder)."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentctl.errors import Exit, UserError
from latentctl.launch import devbox as box
from latentctl.launch.protocol import Handle
from latentctl.launch.slurm import SlurmExecutor
from latentctl.record.journal import read
from latentctl.record.paths import JobPaths, RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.record.states import fold
from latentctl.spec.cluster import ClusterProfile
from tests.e2e.conftest import Cli, make_cli

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NODES = 4
_NUMBER = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


def _free_ports() -> int:
    """First of a block of ports that nobody listens on, nor will another of pytest's workers."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for base in range(21000 + 50 * worker, 30000, 500):
        try:
            for port in (*range(base, base + 3), *range(base + 11, base + 15)):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
    raise RuntimeError("no free ports")


@pytest.fixture(scope="session")
def devbox() -> Iterator[box.Status]:
    given = os.environ.get("LATENTCTL_TEST_DEVBOX")
    if given:
        found = box.status(Path(given))
        if not found.up:
            pytest.fail(f"LATENTCTL_TEST_DEVBOX={given}: that devbox is not up")
        yield found
        return
    folder = Path(tempfile.mkdtemp(prefix="latentctl-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        box.up(folder, nodes=NODES, port=_free_ports(), install=False)
    except UserError as error:
        if error.code == Exit.USAGE:  # not root, packages missing: refused before anything was touched
            folder.rmdir()
            pytest.skip(f"NO REAL SLURM WAS TESTED: {error}")
        box.down(folder, wipe=True)
        raise
    try:
        yield box.status(folder)
    finally:
        box.down(folder, wipe=True)


def own_daemons_only() -> None:
    """Skip a test that kills daemons where they are not the tests' own."""
    if os.environ.get("LATENTCTL_TEST_DEVBOX"):
        pytest.skip("daemons of a devbox that is not the tests' own are left alone")


@pytest.fixture
def up_again(devbox: box.Status) -> Iterator[Callable[..., None]]:
    """up_again(nodes=...): `devbox up` on the tests' own box; it is whole again after the test."""
    own_daemons_only()

    def up(*, nodes: int | None = None) -> None:
        box.up(devbox.folder, nodes=nodes, port=None, install=False)

    yield up
    up()


@pytest.fixture(autouse=True)
def slurm_conf(devbox: box.Status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(devbox.conf))
    for name, value in {"POLL": "0.05", "WATCH": "0.2", "SETTLE": "1"}.items():
        monkeypatch.setenv(f"LATENTCTL_{name}_S", value)


def profile(**changes: Any) -> ClusterProfile:
    base = {
        "name": "devbox",
        "executor": "slurm",
        "partition": "debug",
        "account": "lab",
        "signal_lead": "20s",
    }
    return ClusterProfile.model_validate({**base, **changes})


JOB = JobPlan(
    name="train", stages=["train"], after=[], role="train", nodes=1, tasks_per_node=1, gpus_per_node=0,
    cpus_per_task=1, mem_mb=1000, time_s=600, interpreter=sys.executable,
)  # fmt: skip


class Run:
    """A made-up run whose snapshot holds this latentctl and the stand-in worker."""

    def __init__(
        self, root: Path, behave: dict[str, Any], jobs: list[JobPlan], profile: ClusterProfile
    ) -> None:
        self.paths = RunPaths(root)
        self.profile = profile
        self.executor = SlurmExecutor(profile)
        self.plan = Plan(root.name, "0" * 64, profile.model_dump(mode="json"), jobs)
        self.handles: list[Handle] = []
        root.mkdir(parents=True)
        shutil.copytree(
            ROOT / "latentctl", root / "code" / "latentctl", ignore=shutil.ignore_patterns("__pycache__")
        )
        (root / "code" / "jobs").mkdir()
        (root / "code" / "jobs" / "__init__.py").touch()
        shutil.copy(HERE / "stand_in_worker.py", root / "code" / "jobs" / "worker.py")
        (root / "behave.json").write_text(json.dumps(behave))
        self.plan.save(self.paths.plan)

    def submit(self) -> list[Handle]:
        self.handles = self.executor.submit(self.paths, self.plan)
        return self.handles

    def job(self, name: str = "train") -> JobPaths:
        return self.paths.job(name)

    def state(self, name: str = "train") -> str:
        return fold(read(self.paths.journal), name)[0]

    def events(self, name: str = "train") -> list[str]:
        return [e["event"] for e in read(self.paths.journal) if e.get("job") == name]

    def end(self, attempt: int = 1, name: str = "train") -> dict[str, Any]:
        return json.loads(self.job(name).attempt(attempt).end.read_text())

    def scheduler_text(self, name: str = "train") -> str:
        return "\n".join(p.read_text() for p in self.executor.scheduler_logs(self.paths, self.plan.job(name)))

    def wait(self, until: Callable[[], Any], *, seconds: float = 40, what: str = "it") -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := until():
                return found
            time.sleep(0.1)
        facts = self.executor.query(self.handles)
        logs = {j.name: self.scheduler_text(j.name)[-2000:] for j in self.plan.jobs}
        pytest.fail(f"{what} did not happen in {seconds} s: {facts}\n{logs}")

    def wait_until_over(self, seconds: float = 40) -> None:
        """Slurm knows none of its jobs as pending or running any more."""
        live = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}
        self.wait(
            lambda: not any(f.state in live for f in self.executor.query(self.handles)),
            seconds=seconds,
            what="the end of all jobs",
        )


@pytest.fixture
def make_run(devbox: box.Status) -> Iterator[Callable[..., Run]]:
    """make_run({"train": {"do": "meet"}}, nodes=2, ...): one job named train, or `jobs=[...]`."""
    made: list[Run] = []
    base = Path(tempfile.mkdtemp(prefix="latentctl-runs-"))

    def make(
        behave: dict[str, Any],
        *,
        jobs: list[JobPlan] | None = None,
        on: ClusterProfile | None = None,
        **job: Any,
    ) -> Run:
        name = f"run-{next(_NUMBER)}-{os.getpid()}"  # a run's id is its own
        run = Run(base / name, behave, jobs or [replace(JOB, **job)], on or profile())
        made.append(run)
        return run

    yield make
    try:
        for run in made:
            ids = [h.id for h in run.handles]
            if ids:
                subprocess.run(["scancel", *ids], capture_output=True)
                run.wait_until_over(seconds=20)
    finally:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def cli(tmp_path: Path, devbox: box.Status) -> Cli:
    """The command line in a folder of its own, with the devbox as its Slurm."""
    made = make_cli(tmp_path)
    made.env["SLURM_CONF"] = str(devbox.conf)
    return made


@pytest.fixture
def queue() -> Callable[[Run], list[str]]:
    """Names of a run's jobs that Slurm holds as pending or running."""

    def names(run: Run) -> list[str]:
        done = subprocess.run(["squeue", "-h", "-o", "%j"], capture_output=True, text=True, check=True)
        return [name for name in done.stdout.split() if name.startswith(f"{run.paths.id}/")]

    return names
