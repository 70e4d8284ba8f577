"""Real training on real daemons, broken off in every way: the losses and the weights are those of no break.

Slow: `python -m pytest -m slow tests/slurm/test_exact_resume.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import own_daemons_only

from latentctl.launch import devbox as box
from tests.e2e.conftest import REPO, Cli, make_cli, processes_of, wait_until, worker_of
from tests.e2e.drills import assert_same, recipe, under_way

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, devbox: box.Status, request: pytest.FixtureRequest
) -> Cli:
    """The training that nothing disturbs."""
    cli = make_cli(tmp_path_factory.mktemp("whole"))
    cli.env["SLURM_CONF"] = str(devbox.conf)
    name = recipe(cli, request.param)
    cli("submit", name, "--name", "whole", "--wait", "--cluster", "devbox", timeout=280)
    return cli


@pytest.fixture
def cli(tmp_path: Path, devbox: box.Status) -> Cli:
    made = make_cli(tmp_path)
    made.env["SLURM_CONF"] = str(devbox.conf)
    (tmp_path / "cluster").mkdir()
    shipped = (REPO / "cluster" / "devbox.yaml").read_text()
    for name in ("scav", "scavc", "high"):
        text = shipped.replace("name: devbox", f"name: {name}")
        text = text.replace("partition: debug", f"partition: {name}")
        (tmp_path / "cluster" / f"{name}.yaml").write_text(text)
    return made


def slurm_id(run: Path) -> str:
    return str(json.loads(sorted(run.glob("jobs/*/attempts/*/attempt.json"))[-1].read_text())["id"])


def sh(cli: Cli, *words: str) -> None:
    subprocess.run(words, env=cli.env, check=True, capture_output=True)


def entry(run: Path) -> int:
    return int(json.loads(sorted(run.glob("jobs/*/attempts/*/attempt.json"))[-1].read_text())["pid"])


def node_of(cli: Cli, run: Path) -> str:
    words = ["squeue", "-h", "-j", slurm_id(run), "-o", "%N"]
    return subprocess.run(words, env=cli.env, check=True, capture_output=True, text=True).stdout.strip()


def usr2(cli: Cli, run: Path, devbox: box.Status) -> None:
    sh(cli, "scancel", "--signal=USR2", slurm_id(run))


def requeue(cli: Cli, run: Path, devbox: box.Status) -> None:
    """Only TERM reaches the job."""
    sh(cli, "scontrol", "requeue", slurm_id(run))


def kill_rank_0(cli: Cli, run: Path, devbox: box.Status) -> None:
    os.kill(worker_of(run, 0), signal.SIGKILL)


def kill_rank_1(cli: Cli, run: Path, devbox: box.Status) -> None:
    os.kill(worker_of(run, 1), signal.SIGKILL)


def kill_generator(cli: Cli, run: Path, devbox: box.Status) -> None:
    """In the middle of a rollout, mostly."""
    os.kill(worker_of(run, 2), signal.SIGKILL)


def kill_batch_script(cli: Cli, run: Path, devbox: box.Status) -> None:
    """Nothing of ours is left that could ask for another start."""
    script = f"job{int(slurm_id(run)):05d}/slurm_script"
    found = subprocess.run(["pgrep", "-f", script], capture_output=True, text=True, check=True)
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)


def kill_entry(cli: Cli, run: Path, devbox: box.Status) -> None:
    os.kill(entry(run), signal.SIGKILL)


def kill_all(cli: Cli, run: Path, devbox: box.Status) -> None:
    """As the kernel does where the job's memory is used up: everything but the batch script, at once."""
    for pid in [*processes_of(str(run), "launch.entry"), *processes_of(str(run), "jobs.worker")]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def slurmd_killed(cli: Cli, run: Path, devbox: box.Status) -> None:
    """Its node is given up after a while and the job starts elsewhere, while the old step still lives."""
    own_daemons_only()
    old = worker_of(run, 0)
    os.kill(int((devbox.folder / "run" / f"slurmd.{node_of(cli, run)}.pid").read_text()), signal.SIGKILL)
    try:
        wait_until(lambda: len(list(run.glob("jobs/*/attempts/*"))) > 1, 120)
        wait_until(lambda: not Path(f"/proc/{old}").exists(), 60)
    finally:
        box.up(devbox.folder, nodes=None, port=None, install=False)


def node_down(cli: Cli, run: Path, devbox: box.Status) -> None:
    node = node_of(cli, run)
    sh(cli, "scontrol", "update", f"nodename={node}", "state=down", "reason=drill")
    time.sleep(2)
    sh(cli, "scontrol", "update", f"nodename={node}", "state=resume")


def preempted(cli: Cli, run: Path, devbox: box.Status) -> None:
    """By a job of a higher partition that wants the node for itself."""
    node = node_of(cli, run)
    words = ["-p", "high", "-w", node, "--exclusive", "-t", "1", "--account=lab", "--wrap", "sleep 5"]
    sh(cli, "sbatch", "-o", "/dev/null", *words)


def cancelled(cli: Cli, run: Path, devbox: box.Status) -> None:
    cli("cancel", run.name)
    wait_until(lambda: cli("status", run.name, "--json").json["data"]["runs"][0]["state"] == "cancelled", 60)
    wait_until(lambda: not processes_of(str(run), "jobs.worker"), 60)
    cli("retry", run.name)


Interruption = Callable[[Cli, Path, box.Status], None]
CASES: list[tuple[str, Interruption, str, bool]] = [
    ("sft", usr2, "devbox", False),
    ("sft", requeue, "devbox", False),
    ("sft", kill_rank_0, "devbox", False),
    ("sft", kill_rank_1, "devbox", False),
    ("sft", kill_entry, "devbox", False),
    ("sft", kill_all, "devbox", False),
    ("sft", kill_batch_script, "devbox", True),
    ("sft", node_down, "devbox", False),
    ("sft", preempted, "scav", False),
    ("sft", preempted, "scavc", True),
    ("sft", cancelled, "devbox", False),
    ("rl", usr2, "devbox", False),
    ("rl", kill_generator, "devbox", False),
    ("rl", kill_rank_0, "devbox", False),
    ("rl-ahead", requeue, "devbox", False),
    ("rl-ahead", kill_generator, "devbox", False),
    ("rl-ahead", cancelled, "devbox", False),
    ("rl-long", slurmd_killed, "devbox", False),
]
"""What is trained, what happens, where, and whether somebody has to retry the run."""


@pytest.mark.parametrize(
    ("whole", "interrupt", "cluster", "by_hand"),
    CASES,
    ids=lambda v: getattr(v, "__name__", str(v)),
    indirect=["whole"],
)
def test_an_interrupted_training_is_the_same_training(
    cli: Cli,
    whole: Cli,
    devbox: box.Status,
    request: pytest.FixtureRequest,
    interrupt: Interruption,
    cluster: str,
    by_hand: bool,
) -> None:
    kind = request.node.callspec.params["whole"]
    cli("submit", recipe(cli, kind), "--name", "broken", "--cluster", cluster)
    (run,) = cli.runs.glob("broken-*")
    wait_until(lambda: under_way(run, kind), 120, every=0.02)
    interrupt(cli, run, devbox)
    if by_hand:
        wait_until(lambda: cli("status", run.name, "--exit-code", code=None).code == 1, 90, every=1)
        cli("retry", run.name)
    end = time.monotonic() + 240
    while cli("status", run.name, "--exit-code", code=None).code != 0:
        assert time.monotonic() < end, cli("show", run.name).out
        time.sleep(1)
    assert_same(cli, whole, kind)
