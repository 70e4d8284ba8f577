"""Real training on this machine, broken off by what a person or a machine does: the losses and the weights
are those of no break.

Slow: `python -m pytest -m slow tests/e2e/test_local_drills.py`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from latentctl.launch.processes import of_run
from latentctl.record.lease import last_owner
from latentctl.record.paths import RunPaths
from tests.e2e.conftest import Cli, make_cli, wait_until
from tests.e2e.drills import assert_same, recipe, under_way

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Cli:
    """The training that nothing disturbs."""
    cli = make_cli(tmp_path_factory.mktemp("whole"))
    cli("submit", recipe(cli, request.param), "--name", "whole", "--wait", timeout=280)
    return cli


def state(cli: Cli, run: Path) -> str:
    return str(cli("status", run.name, "--json").json["data"]["runs"][0]["state"])


def supervisor_killed(cli: Cli, run: Path) -> None:
    """Its jobs run on, unwatched; who submits again lets them checkpoint first."""
    owner = last_owner(RunPaths(run).supervisor_lease)
    assert owner is not None
    os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: not owner.alive(), 10)
    cli("retry", run.name)


def machine_rebooted(cli: Cli, run: Path) -> None:
    """All processes are gone, the files are there."""
    owner = last_owner(RunPaths(run).supervisor_lease)
    assert owner is not None
    os.kill(owner.pid, signal.SIGKILL)
    while found := of_run(run):
        for process in found:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.1)
    wait_until(lambda: state(cli, run) == "lost", 30)
    cli("retry", run.name)


def cancelled(cli: Cli, run: Path) -> None:
    cli("cancel", run.name)
    wait_until(lambda: state(cli, run) == "cancelled", 60)
    cli("retry", run.name)


@pytest.mark.parametrize("whole", ["sft", "rl", "rl-ahead"], indirect=True)
@pytest.mark.parametrize(
    "interrupt", [supervisor_killed, machine_rebooted, cancelled], ids=lambda f: f.__name__
)
def test_a_training_on_this_machine_is_the_same_after_a_break(
    cli: Cli, whole: Cli, request: pytest.FixtureRequest, interrupt: Callable[[Cli, Path], None]
) -> None:
    kind = request.node.callspec.params["whole"]
    cli("submit", recipe(cli, kind), "--name", "broken")
    (run,) = cli.runs.glob("broken-*")
    wait_until(lambda: under_way(run, kind), 120, every=0.02)
    interrupt(cli, run)
    wait_until(lambda: cli("status", run.name, "--exit-code", code=None).code == 0, 240, every=1)
    assert_same(cli, whole, kind)
