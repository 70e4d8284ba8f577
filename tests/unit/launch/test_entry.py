"""The entry as Slurm starts it: several tasks that know of each other only through the run directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from launch_harness import LocalRun, MakeRun, eventually, job

from latentctl.faults.load import resolved
from latentctl.record.nodes import excluded

CALL = "import sys; from latentctl.launch.entry import entry, run_of; entry(run_of(sys.argv[1]), sys.argv[2])"


@dataclass
class Step:
    """The tasks of one start of a job, as srun would make them."""

    tasks: list[subprocess.Popen[str]]
    calls: Path
    """What was asked of `scontrol`."""

    def send(self, number: signal.Signals) -> None:
        for task in self.tasks:
            task.send_signal(number)

    def codes(self, timeout: float = 20) -> list[int]:
        self.errors = [task.communicate(timeout=timeout)[1] for task in self.tasks]
        return [task.returncode for task in self.tasks]

    def requeues(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def slurm(tmp_path: Path):
    """slurm(run, "a", tasks=2, **more environment): a Step. scontrol and squeue are scripts."""
    tools = tmp_path / "bin"
    tools.mkdir()
    scripts = {
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol.calls; exit ${{SCONTROL_EXIT:-0}}',
        "squeue": "printf '%-24s%-24s%-1000s\\n' ${FAKE_ID:-77} ${FAKE_STATE:-RUNNING} 0",
    }
    for name, body in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    steps: list[Step] = []

    def start(
        run: LocalRun,
        name: str,
        *,
        tasks: int = 1,
        code: Path | None = None,
        without: tuple[str, ...] = (),
        **more: str,
    ) -> Step:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SUBMITIT_", "SLURM_"))}
        env |= {
            "PYTHONPATH": str(code or run.paths.code),
            "PYTHONSAFEPATH": "1",
            "PATH": f"{tools}:{env['PATH']}",
        }
        env |= {
            "SLURM_JOB_ID": "77",
            "SLURM_STEP_NUM_TASKS": str(tasks),
            "SLURM_STEP_TASKS_PER_NODE": str(tasks),
        }
        env |= {"SUBMITIT_EXECUTOR": "slurm", "SLURMD_NODENAME": "localhost", "CUDA_VISIBLE_DEVICES": "2,3"}
        env |= {"SLURM_JOB_NODELIST": "localhost", **more}
        env = {k: v for k, v in env.items() if k not in without}
        step = Step([], tmp_path / "scontrol.calls")
        steps.append(step)
        for rank in range(tasks):
            ranked = {**env, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
            step.tasks.append(
                subprocess.Popen([sys.executable, "-c", CALL, str(run.paths.root), name], env=ranked,
                                 stderr=subprocess.PIPE, text=True, start_new_session=True)
            )  # fmt: skip
        return step

    yield start
    for step in steps:
        for task in step.tasks:
            task.kill()
            task.communicate()


def test_ranks_meet_through_the_attempt(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a", tasks=3))
    assert slurm(run, "a", tasks=3).codes() == [0, 0, 0]
    notes = run.notes("a", "start")
    assert sorted(n["rank"] for n in notes) == [0, 1, 2]
    assert {(n["env"]["MASTER_ADDR"], n["env"]["WORLD_SIZE"]) for n in notes} == {("localhost", "3")}
    assert len({n["env"]["MASTER_PORT"] for n in notes}) == 1
    assert {n["env"]["CUDA_VISIBLE_DEVICES"] for n in notes} == {"2,3"}  # no GPU was asked for
    info = json.loads(run.paths.job("a").attempt(1).info.read_text())
    assert (info["scheduler"], info["id"], info["restarts"]) == ("slurm", "77", 0)
    assert run.state("a") == "succeeded"


def test_a_long_checkpoint_is_asked_for_earlier_than_the_scheduler_does(make_run: MakeRun, slurm) -> None:
    """Begun 50 s ago with a limit of 60 s: of checkpoints that take 4 s there is time for now, not later."""
    behave = {"a": [["commit", 1, 4.0], ["sleep", 8], ["checkpoint"]]}
    run = make_run(job("a", time_s=60), behave=behave, signal_lead=2)
    begin = time.monotonic()
    step = slurm(run, "a", LATENTCTL_BEGAN=str(time.time() - 50), LATENTCTL_REQUEUE_KILL_S="0")
    assert step.codes() == [85]
    assert run.notes("a", "checkpoint")[0]["told"] == ["SIGUSR2"]
    assert time.monotonic() - begin < 8  # the signal of the profile would come a second before the end
    assert run.end("a")["exit"] == "requeued"
    assert step.requeues()


@pytest.mark.parametrize(("age", "seconds"), [(50, 2.0), (20, 9.0), (50, None)])
def test_without_need_nothing_is_asked_for_earlier(make_run: MakeRun, slurm, age: int, seconds) -> None:
    """There is time for three such checkpoints, half of the limit is left, or nothing was measured."""
    commit = [["commit", 1, seconds]] if seconds is not None else []
    run = make_run(job("a", time_s=60), behave={"a": [*commit, ["sleep", 1], ["checkpoint"]]}, signal_lead=2)
    assert slurm(run, "a", LATENTCTL_BEGAN=str(time.time() - age), LATENTCTL_WATCH_S="0.1").codes() == [0]
    assert not run.notes("a", "checkpoint")


SHARED_OUT = [
    ("0,1,2,3", 2, ["0,1", "2,3"]),
    ("4,5,6,7", 1, ["4", "5", "6", "7"]),
    ("GPU-1d,GPU-2e", 1, ["GPU-1d", "GPU-2e"]),
    (None, 2, ["0,1", "2,3"]),
]


@pytest.mark.parametrize(("given", "each", "seen"), SHARED_OUT)
def test_each_process_sees_its_own_gpus(
    make_run: MakeRun, slurm, given: str | None, each: int, seen: list[str]
) -> None:
    tasks = len(seen)
    run = make_run(job("a", tasks=tasks, gpus=tasks * each))
    more = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    assert (
        slurm(run, "a", tasks=tasks, without=() if given else ("CUDA_VISIBLE_DEVICES",), **more).codes()
        == [0] * tasks
    )
    notes = sorted(run.notes("a", "start"), key=lambda n: n["rank"])
    assert [n["env"]["CUDA_VISIBLE_DEVICES"] for n in notes] == seen


def test_gpus_that_slurm_shared_out_are_left_as_they_are(make_run: MakeRun, slurm) -> None:
    """Such as by `--gpu-bind=single:1`: each task is shown one, of another name than its place says."""
    run = make_run(job("a", tasks=2, gpus=2))
    assert slurm(run, "a", tasks=2, CUDA_VISIBLE_DEVICES="0").codes() == [0, 0]
    assert {n["env"]["CUDA_VISIBLE_DEVICES"] for n in run.notes("a", "start")} == {"0"}


def test_usr2_checkpoints_on_all_ranks_and_requeues_once(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a", tasks=2), behave={"a": [["sleep", 60], ["checkpoint"]]})
    step = slurm(run, "a", tasks=2)
    run.wait_for("a", "start", 2)
    step.send(signal.SIGUSR2)
    assert step.codes() == [85, 85]
    assert step.requeues() == ["requeue 77"]
    assert run.end("a")["exit"] == "requeued"
    assert run.state("a") == "pending"
    (run.paths.root / "behave.json").write_text("{}")
    assert slurm(run, "a", tasks=2, SLURM_RESTART_COUNT="1").codes() == [0, 0]
    assert [p.number for p in run.paths.job("a").attempts()] == [1, 2]
    assert run.state("a") == "succeeded"


def test_an_array_element_requeues_itself_and_not_the_array(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a"), behave={"a": [["requeue_below", 2]]})
    step = slurm(run, "a", SLURM_ARRAY_JOB_ID="77", SLURM_ARRAY_TASK_ID="4", FAKE_ID="77_4")
    assert step.codes() == [85]
    assert step.requeues() == ["requeue 77_4"]


def test_a_bare_term_checkpoints_but_leaves_the_rest_to_who_sent_it(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a"), behave={"a": [["sleep", 60], ["checkpoint"]]})
    step = slurm(run, "a")
    run.wait_for("a", "start")
    step.send(signal.SIGTERM)
    assert step.codes() == [1]
    assert step.requeues() == []  # scancel sends TERM too, and a requeue would bring the job back
    assert run.end("a")["exit"] == "preempted"
    assert run.state("a") == "running"  # what follows, only Slurm knows


def test_a_second_term_kills(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a"), behave={"a": [["deaf"], ["sleep", 60]]})
    step = slurm(run, "a")
    run.wait_for("a", "start")
    step.send(signal.SIGTERM)
    time.sleep(1.6)
    assert step.tasks[0].poll() is None
    step.send(signal.SIGTERM)
    assert step.codes() == [1]
    assert run.end("a")["message"] == "stopped by SIGTERM before a checkpoint was committed"


def test_a_signal_before_the_worker_listens_is_not_lost(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a"), behave={"a": [["sleep", 60], ["checkpoint"]]})
    step = slurm(run, "a")
    eventually(lambda: run.paths.job("a").attempts(), "the attempt")  # its worker is not up yet
    step.send(signal.SIGUSR2)
    assert step.codes() == [85]
    assert run.notes("a", "checkpoint")[0]["told"] == ["SIGUSR2"]


def test_a_node_that_broke_is_left_out_and_the_job_requeued(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a", tasks=2), behave={"a": [["fail_below", 2, "node", "gpu_broken"]]})
    resolved({"retries": 2, "exclude_for": 7200}).save(run.paths.faults)
    step = slurm(run, "a", tasks=2)
    assert step.codes() == [85, 85]
    assert step.requeues() == ["requeue 77", "update JobId=77 ExcNodeList=localhost"]
    end = run.end("a")
    assert end["exit"] == "retried"
    assert end["message"] == (
        "it failed; started again on other nodes (retry 1 of 2); localhost is left out for 2 h"
    )
    assert list(excluded(run.paths.root.parent, "local")) == ["localhost"]
    assert run.state("a") == "pending"
    assert slurm(run, "a", tasks=2, SLURM_RESTART_COUNT="1").codes() == [0, 0]
    assert run.state("a") == "succeeded"


def test_a_job_that_slurm_does_not_take_back_has_failed(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a"), behave={"a": [["kill", [0]]]})
    resolved({"retries": 2}).save(run.paths.faults)
    assert slurm(run, "a", SCONTROL_EXIT="1").codes() == [1]
    assert run.state("a") == "failed"
    assert "killed by SIGKILL" in run.end("a")["message"]
    assert "could not be requeued" in run.end("a")["message"]


def test_a_refused_requeue_is_a_failure_in_words(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a"), behave={"a": [["requeue_below", 2]]})
    step = slurm(run, "a", SCONTROL_EXIT="1")
    assert step.codes() == [1]
    assert "could not be requeued" in run.end("a")["message"]
    assert run.state("a") == "failed"


def test_a_job_that_was_cancelled_meanwhile_is_not_brought_back(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a"), behave={"a": [["requeue_below", 2]]})
    step = slurm(run, "a", FAKE_STATE="COMPLETING")
    assert step.codes() == [1]
    assert step.requeues() == []
    assert run.end("a")["exit"] == "preempted"
    assert "COMPLETING" in run.end("a")["message"]


def test_a_job_whose_parent_did_not_succeed_is_not_run(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a"), job("b", "a", tasks=2))
    step = slurm(run, "b", tasks=2)
    assert step.codes() == [1, 1]
    assert "b was not run: a has not succeeded" in step.errors[0]
    assert run.end("b")["class"] == "parent"
    assert run.state("b") == "failed"
    assert not run.notes("b")


def test_code_from_elsewhere_than_the_snapshot_is_refused(make_run: MakeRun, slurm) -> None:
    run, other = make_run(job("a")), make_run(job("a"))
    step = slurm(run, "a", code=other.paths.code)
    assert step.codes() == [1]
    assert run.end("a")["class"] == "snapshot"
    assert not run.notes("a")


def test_a_wrong_number_of_processes_is_refused(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a", tasks=2))
    assert slurm(run, "a", tasks=1).codes() == [1]
    assert run.end("a")["message"] == "1 processes were started, the plan says 2"


def test_a_rank_that_never_came_is_named(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a", tasks=2), behave={"a": [["no_result"]]})
    step = slurm(run, "a", tasks=1, SLURM_STEP_NUM_TASKS="2", LATENTCTL_FINISH_S="0.5")
    assert step.codes() == [1]
    assert (run.end("a")["class"], run.end("a")["message"]) == (
        "rank_lost",
        "rank 1 went away without a word",
    )


def test_a_rank_does_not_wait_for_ever_for_rank_0(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a", tasks=2))
    step = slurm(run, "a", tasks=2, LATENTCTL_JOIN_S="0.3")
    os.kill(step.tasks[0].pid, signal.SIGKILL)
    assert step.codes() == [-9, 1]
    assert "rank 0 made no attempt of a within 0.3 s" in step.errors[1]


def test_an_older_start_that_comes_back_stops_when_a_newer_one_exists(make_run: MakeRun, slurm) -> None:
    """The processes of a node that was thought dead."""
    run = make_run(job("a"), behave={"a": [["sleep", 60]]})
    old = slurm(run, "a")
    pid = run.wait_for("a", "start")[0]["pid"]
    (run.paths.root / "behave.json").write_text("{}")
    assert slurm(run, "a", SLURM_RESTART_COUNT="1").codes() == [0]
    assert old.codes() == [1]
    assert "attempt 1 of job a is over" in old.errors[0]
    assert not Path(f"/proc/{pid}").exists()
    assert run.state("a") == "succeeded"
    assert not run.end("a", 1)


def test_ids_that_start_again_make_a_new_attempt(make_run: MakeRun, slurm) -> None:
    run = make_run(job("a"), behave={"a": [["exit", 1, [0]]]})
    assert slurm(run, "a").codes() == [1]
    (run.paths.root / "behave.json").write_text("{}")
    assert slurm(run, "a").codes() == [0]  # the same job id and restart count
    assert [p.number for p in run.paths.job("a").attempts()] == [1, 2]


def test_a_full_disk_is_said_on_stderr(make_run: MakeRun, slurm, tmp_path: Path) -> None:
    run = make_run(job("a"), behave={"a": [["sleep", 1.5]]})
    small = run.paths.root / "jobs"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True)
    if done.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    try:
        step = slurm(run, "a")
        run.wait_for("a", "start")
        with pytest.raises(OSError), open(small / "fill", "wb") as f:
            f.write(b"x" * 100_000)
        assert step.codes() == [1]
        assert "No space left on device" in step.errors[0]
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_outside_of_a_job_it_says_so(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(job("a"))
    env = {"PYTHONPATH": str(run.paths.code), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", CALL, str(run.paths.root), "a"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "neither Slurm nor submitit started this process" in done.stderr


def test_the_entry_needs_neither_pydantic_nor_torch_nor_submitit() -> None:
    code = "import sys, latentctl.launch.entry, latentctl.launch.slurm_client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pydantic", "torch", "submitit", "yaml", "typer", "numpy"} & set(done.stdout.split())
