"""The devbox itself: running it twice, daemons that die, a controller that is gone."""

from __future__ import annotations

import os
import signal
import time

import pytest
from conftest import NODES, profile

from latentctl.errors import Exit, UserError
from latentctl.launch import devbox as box
from latentctl.launch.slurm_client import SlurmClient


def stop(folder, pid_file: str, number: signal.Signals = signal.SIGKILL) -> None:
    pid = int((folder / pid_file).read_text())
    os.kill(pid, number)
    while os.path.exists(f"/proc/{pid}/exe"):  # a zombie has none
        time.sleep(0.02)


def test_every_daemon_is_up_and_every_node_is_there(devbox):
    names = {"munged", "mariadbd", "slurmdbd", "slurmctld", *(f"slurmd.node{i}" for i in range(1, NODES + 1))}
    found = box.status(devbox.folder)
    assert names == set(found.daemons)
    assert found.up
    facts = SlurmClient().facts()
    assert {p.name for p in facts.partitions} == {"debug", "gpu", "high", "scav", "scavc", "down", "adm"}
    assert facts.accounts is not None
    assert "lab" in facts.accounts


def test_up_on_a_running_box_changes_nothing(devbox, up_again):
    before = {p.name: p.read_text() for p in (devbox.folder / "run").rglob("*.pid")}
    up_again()
    assert {p.name: p.read_text() for p in (devbox.folder / "run").rglob("*.pid")} == before


def test_up_with_other_settings_is_refused_while_it_runs(devbox, up_again):
    with pytest.raises(UserError, match="runs with other settings") as caught:
        up_again(nodes=2)
    assert caught.value.code == Exit.USAGE
    assert box.status(devbox.folder).up


def test_a_second_box_on_the_same_ports_is_refused(devbox, up_again, tmp_path):
    port = int((devbox.folder / "etc" / "settings").read_text().split("port=")[1].split()[0])
    with pytest.raises(UserError, match="is taken"):
        box.up(tmp_path / "second", nodes=2, port=port, install=False)
    assert not (tmp_path / "second").exists()


def test_a_dead_controller_is_code_4_at_once_and_a_running_job_outlives_it(devbox, up_again, make_run):
    running = make_run({"train": {"do": "checkpoint"}})
    (handle,) = running.submit()
    running.wait(lambda: (running.job().root / "waiting-0").exists(), what="the job at work")
    stop(devbox.folder, "run/slurm/slurmctld.pid", signal.SIGTERM)  # KILL may lose what it has not saved yet
    assert not box.status(devbox.folder).up

    late = make_run({"train": {"do": "meet"}})
    began = time.monotonic()
    with pytest.raises(UserError, match="Slurm cannot be reached") as caught:
        late.submit()
    assert time.monotonic() - began < 5
    assert (caught.value.code, late.paths.journal.exists()) == (Exit.CLUSTER, False)
    with pytest.raises(UserError) as caught:
        running.executor.cancel(running.paths, [handle])
    assert (caught.value.code, running.state()) == (Exit.CLUSTER, "running")

    up_again()
    assert box.status(devbox.folder).up
    assert running.executor.query([handle])[0].state == "RUNNING"
    running.executor.cancel(running.paths, [handle])
    running.wait_until_over()


def test_a_dead_node_daemon_is_mended(devbox, up_again):
    stop(devbox.folder, "run/slurmd.node4.pid")
    found = box.status(devbox.folder)
    assert [n for n, alive in found.daemons.items() if not alive] == ["slurmd.node4"]
    up_again()
    assert box.status(devbox.folder).up


def test_without_accounting_jobs_run_and_old_ones_are_unknown_with_the_reason(devbox, up_again, make_run):
    stop(devbox.folder, "run/slurm/slurmdbd.pid")
    run = make_run({"train": {"do": "meet"}}, on=profile())
    (handle,) = run.submit()
    run.wait(lambda: run.state() == "succeeded", what="success without accounting")
    old = type(handle)("slurm", "1", "train", "a-run-before/train")
    (fact,) = run.executor.query([old])
    assert fact.state is None
    assert "accounting does not answer" in (fact.reason or "") or "is now" in (fact.reason or "")
