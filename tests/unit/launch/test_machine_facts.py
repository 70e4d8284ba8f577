"""GPUs, ranks, processes and the environment: what is read from the machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from latentctl.launch import gpus
from latentctl.launch.environment import job_environment
from latentctl.launch.processes import end_all, of_run, send, table
from latentctl.launch.ranks import free_port, from_environment, tasks_per_node
from latentctl.launch.timing import Timing

SMI = """#!/bin/sh
echo "GPU 0: NVIDIA H200 (UUID: GPU-11111111-aaaa)"
echo "GPU 1: NVIDIA H200 (UUID: GPU-22222222-bbbb)"
echo "GPU 2: NVIDIA H200 (UUID: GPU-33333333-cccc)"
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """nvidia_smi(script): a machine with that nvidia-smi."""
    monkeypatch.delenv("LATENTCTL_GPUS")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(script: str) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(script)
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return install


def test_gpus_come_from_nvidia_smi(nvidia_smi) -> None:
    nvidia_smi(SMI)
    assert gpus.visible({}) == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1,2", [1, 2]), ("", []), ("-1", []), ("GPU-33333333-cccc,0", [2, 0]), ("7", []), (" 1 , 0", [1, 0])],
)
def test_cuda_visible_devices_narrows_them(nvidia_smi, value: str, expected: list[int]) -> None:
    nvidia_smi(SMI)
    assert gpus.visible({"CUDA_VISIBLE_DEVICES": value}) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("4", [0, 1, 2, 3]), ("0", []), ("0,2", [0, 2]), ("3,", [3]), ("1,1", [1])]
)
def test_the_override_decides(value: str, expected: list[int]) -> None:
    assert gpus.visible({"LATENTCTL_GPUS": value, "CUDA_VISIBLE_DEVICES": "9"}) == expected


@pytest.mark.parametrize("value", ["all", "-1", "0;1", "1.5"])
def test_a_wrong_override_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match="a number of GPUs"):
        gpus.visible({"LATENTCTL_GPUS": value})


def test_a_broken_or_hanging_driver_falls_back_to_the_device_files(nvidia_smi, monkeypatch) -> None:
    files = len([p for p in Path("/dev").glob("nvidia[0-9]*")])
    nvidia_smi("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    assert len(gpus.visible({})) == files
    monkeypatch.setattr(gpus, "NVIDIA_SMI_TIMEOUT_S", 0.2)
    nvidia_smi("#!/bin/sh\nexec sleep 30\n")
    begin = time.monotonic()
    assert len(gpus.visible({})) == files
    assert time.monotonic() - begin < 5


SLURM = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "9", "SLURM_STEP_NUM_TASKS": "5", "SLURM_PROCID": "4"}


def test_slurms_environment_names_the_place() -> None:
    place = from_environment(
        {**SLURM, "SLURM_LOCALID": "0", "SLURM_NODEID": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
         "SLURM_RESTART_COUNT": "3", "SLURM_STEP_NUM_NODES": "3", "SLURMD_NODENAME": "n3"}
    )  # fmt: skip
    assert (place.rank, place.size, place.local_rank, place.local_size, place.nodes) == (4, 5, 0, 1, 3)
    assert (place.host, place.job_id, place.restarts) == ("n3", "9", 3)


def test_each_start_has_its_own_key_and_all_its_ranks_share_it() -> None:
    first = from_environment(SLURM)
    assert from_environment({**SLURM, "SLURM_PROCID": "0", "SLURM_NODEID": "1"}).key == first.key
    assert from_environment({**SLURM, "SLURM_RESTART_COUNT": "1"}).key != first.key
    assert from_environment({**SLURM, "SLURM_JOB_ID": "10"}).key != first.key


def test_a_local_job_inside_a_slurm_allocation_is_local() -> None:
    local = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": str(os.getpid())}
    local |= {"SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_GLOBALID": "1"}
    place = from_environment({**SLURM, **local})
    assert (place.scheduler, place.rank, place.size, place.local_rank, place.host) == (
        "local",
        1,
        2,
        1,
        "127.0.0.1",
    )


@pytest.mark.parametrize(("text", "counts"), [("4", [4]), ("2(x3)", [2, 2, 2]), ("2(x2),1", [2, 2, 1])])
def test_tasks_per_node(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts


def test_an_unreadable_task_count_is_an_error() -> None:
    with pytest.raises(ValueError, match="SLURM_TASKS_PER_NODE is 'many'"):
        tasks_per_node("many")


def test_a_free_port_is_outside_the_kernels_own_range() -> None:
    port = free_port()
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert 20000 <= port < max(low, 32000)
    with socket.socket() as s:
        s.bind(("", port))


def marked(run: Path, job: str, code: str = "import time; time.sleep(60)") -> subprocess.Popen[bytes]:
    env = {**os.environ, "LATENTCTL_RUN_DIR": str(run), "LATENTCTL_JOB": job}
    return subprocess.Popen([sys.executable, "-c", code], env=env, start_new_session=True)


def test_processes_are_found_by_run_and_job_and_by_descent(tmp_path: Path) -> None:
    hiding = (  # a grandchild without the marks, in a session of its own
        "import subprocess, time\n"
        "subprocess.Popen(['sleep', '60'], env={}, start_new_session=True)\n"
        "time.sleep(60)"
    )
    mine, other_job = marked(tmp_path / "x", "a", hiding), marked(tmp_path / "x", "b")
    other_run = marked(tmp_path / "xy", "a")
    try:
        deadline = time.monotonic() + 10
        while len(of_run(tmp_path / "x", "a")) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        found = {p.pid for p in of_run(tmp_path / "x", "a")}
        assert mine.pid in found
        assert len(found) == 2
        assert {p.pid for p in of_run(tmp_path / "x")} == found | {other_job.pid}
        assert end_all(lambda: of_run(tmp_path / "x"), grace=0) == []
        assert mine.wait(5) == other_job.wait(5) == -signal.SIGKILL
        assert other_run.poll() is None
    finally:
        for child in (mine, other_job, other_run):
            child.kill()
            child.wait()


def test_a_process_that_got_a_dead_ones_pid_is_not_hit() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        process = table()[child.pid]
        assert not send(replace(process, start="1"), signal.SIGKILL)
        assert child.poll() is None
        assert send(process, signal.SIGKILL)
        assert child.wait(5) == -signal.SIGKILL
        assert not send(process, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()


def test_end_all_asks_before_it_kills(tmp_path: Path) -> None:
    polite = marked(
        tmp_path, "a", "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); time.sleep(60)"
    )
    deaf = marked(tmp_path, "a", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)")
    time.sleep(0.4)
    assert end_all(lambda: of_run(tmp_path), grace=0.5) == []
    assert polite.wait(5) == 7
    assert deaf.wait(5) == -signal.SIGKILL


def test_a_jobs_environment_holds_only_plain_and_named_variables() -> None:
    env = {"PATH": "/bin", "LC_ALL": "C", "HF_TOKEN": "x", "NAMED": "y", "LATENTCTL_GPUS": "2",
           "LATENTCTL_RUN_DIR": "/outer", "LATENTCTL_JOB": "outer", "AWS_SECRET_ACCESS_KEY": "z"}  # fmt: skip
    assert job_environment(["NAMED", "ABSENT"], env) == {
        "PATH": "/bin", "LC_ALL": "C", "NAMED": "y", "LATENTCTL_GPUS": "2",
    }  # fmt: skip


def test_times_can_be_shortened_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTCTL_FINISH_S", "1.5")
    assert Timing.from_environment().finish == 1.5
