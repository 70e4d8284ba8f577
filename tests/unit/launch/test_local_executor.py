"""The local executor: real supervisors, real processes, a worker without torch."""

from __future__ import annotations

import itertools
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from launch_harness import REPO, LocalRun, MakeRun, eventually, job

from latentctl.errors import Exit, UserError
from latentctl.launch.processes import of_run
from latentctl.record.journal import process_start
from latentctl.record.lease import last_owner


def alive(pid: int) -> bool:
    return process_start(pid) is not None


def kill_supervisor(run: LocalRun) -> None:
    owner = last_owner(run.paths.supervisor_lease)
    assert owner is not None
    os.kill(owner.pid, signal.SIGKILL)
    eventually(lambda: not alive(owner.pid), "the supervisor's death")


def test_jobs_run_in_order_and_leave_their_records(make_run: MakeRun) -> None:
    run = make_run(job("a", tasks=2), job("b", "a"), behave={"a": [["sleep", 0.2]]})
    handles = run.submit()
    assert run.alive(handles)
    assert [h.job for h in handles] == ["a", "b"]
    assert {h.executor for h in handles} == {"local"}
    run.wait(handles)
    assert [f.state for f in run.executor.query(handles)] == ["gone", "gone"]
    assert run.state("a") == run.state("b") == "succeeded"
    assert run.events("a") == ["submitting", "submitted", "started", "succeeded"]
    assert max(n["time"] for n in run.notes("a", "end")) < run.notes("b", "start")[0]["time"]
    attempt = run.paths.job("a").attempt(1)
    assert [attempt.stdout(r).read_text() for r in (0, 1)] == ["rank 0 speaks\n", "rank 1 speaks\n"]
    assert run.end("a") | {"time": ""} == {
        "exit": "succeeded", "class": None, "message": None, "evidence": [], "rank": None, "hint": None,
        "rule": None, "attempt": 1, "time": "",
    }  # fmt: skip
    info = json.loads(attempt.info.read_text())
    assert info["world_size"] == 2
    assert info["host"] == os.uname().nodename
    assert last_owner(run.paths.supervisor_lease) is None  # given back


def test_a_worker_is_told_its_place_and_sees_only_the_snapshot(make_run: MakeRun) -> None:
    run = make_run(
        job("a", tasks=2, cpus_per_task=3), env={"FROM_PROFILE": "yes"}, data_dir="/some/data"
    ).start_and_wait()
    for note in run.notes("a", "start"):
        env = note["env"]
        code = str(run.paths.code)
        assert env["PYTHONPATH"] == code
        assert note["path"][0] == code
        assert note["cwd"] == str(run.paths.root)
        assert (env["WORLD_SIZE"], env["LOCAL_RANK"], env["LOCAL_WORLD_SIZE"]) == (
            "2",
            str(note["rank"]),
            "2",
        )
        assert (env["FROM_PROFILE"], env["LATENTCTL_DATA_DIR"]) == ("yes", "/some/data")
        assert env["OMP_NUM_THREADS"] in ("3", os.environ.get("OMP_NUM_THREADS"))
        assert env["GOMP_SPINCOUNT"] == "10000"  # jobs beside this one get the cores while it waits
        assert env["MASTER_ADDR"] == "127.0.0.1"
        assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert len({n["env"]["MASTER_PORT"] for n in run.notes("a", "start")}) == 1


def test_how_threads_wait_may_be_said(make_run: MakeRun) -> None:
    run = make_run(job("a"), env={"OMP_WAIT_POLICY": "ACTIVE"}).start_and_wait()
    assert run.notes("a", "start")[0]["env"].get("GOMP_SPINCOUNT") is None


def test_only_named_variables_reach_a_job_and_their_values_never_the_disk(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s3cret-value")
    monkeypatch.setenv("PASSED", "passed-value")
    run = make_run(job("a"), pass_env=["PASSED"]).start_and_wait()
    assert run.notes("a", "start")[0]["has"] == {"SECRET": False, "PASSED": True}
    for path in run.paths.root.rglob("*"):
        if path.is_file() and "code" not in path.relative_to(run.paths.root).parts:
            assert b"passed-value" not in path.read_bytes(), path
            assert b"s3cret-value" not in path.read_bytes(), path


def test_a_failed_parent_skips_its_descendants_and_nobody_else(make_run: MakeRun) -> None:
    run = make_run(
        job("a"), job("b", "a"), job("c", "b"), job("other"), behave={"a": [["exit", 3, [0]]]}
    ).start_and_wait()
    assert {n: run.state(n) for n in ("a", "b", "c", "other")} == {
        "a": "failed", "b": "skipped", "c": "skipped", "other": "succeeded",
    }  # fmt: skip
    assert run.end("a")["message"] == "the worker of rank 0 ended with exit code 3"
    assert run.end("a")["evidence"] == ["step 9: 90%", "last words"]
    assert not run.paths.job("b").attempts()


def test_more_time_is_a_second_attempt(make_run: MakeRun) -> None:
    run = make_run(job("a"), job("b", "a"), behave={"a": [["requeue_below", 3]]}).start_and_wait()
    assert [n["attempt"] for n in run.notes("a", "start")] == [1, 2, 3]
    assert [run.end("a", n)["exit"] for n in (1, 2, 3)] == ["requeued", "requeued", "succeeded"]
    assert run.state("a") == run.state("b") == "succeeded"


def test_requeues_are_capped(make_run: MakeRun) -> None:
    run = make_run(job("a"), behave={"a": [["requeue_below", 99]]}, max_requeues=1).start_and_wait()
    assert len(run.notes("a", "start")) == 2
    assert run.state("a") == "failed"
    assert run.end("a")["class"] == "requeue_limit"


def test_gpu_hours_are_capped(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTCTL_GPUS", "1")
    behave = {"a": [["sleep", 0.2], ["requeue_below", 3]]}
    spent = make_run(job("a", gpus=1), behave=behave, max_gpu_hours=1e-9).start_and_wait()
    assert len(spent.notes("a", "start")) == 1
    assert (spent.state("a"), spent.end("a")["class"]) == ("failed", "requeue_limit")
    assert "of 1e-09 GPU-hours" in spent.end("a")["message"]
    enough = make_run(job("a", gpus=1), behave=behave, max_gpu_hours=1).start_and_wait()
    assert enough.state("a") == "succeeded"
    without = make_run(job("a"), behave=behave, max_gpu_hours=1e-9).start_and_wait()
    assert without.state("a") == "succeeded"


@pytest.mark.parametrize("order", [(0.0, 0.3), (0.3, 0.0)], ids=["cause-first", "consequence-first"])
def test_a_failed_rank_stops_the_others_and_its_error_is_shown(make_run: MakeRun, order: tuple) -> None:
    behave = [
        ["sleep_on", order[0], [1]], ["fail", "index 7 is out of range", True, [1]],
        ["sleep_on", order[1], [0]], ["fail", "connection closed by peer", False, [0]], ["sleep", 60],
    ]  # fmt: skip
    begin = time.monotonic()
    run = make_run(job("a", tasks=3), behave={"a": behave}).start_and_wait()
    assert time.monotonic() - begin < 15
    end = run.end("a")
    assert (end["message"], end["rank"], end["evidence"]) == ("index 7 is out of range", 1, ["the line"])
    assert run.state("a") == "failed"
    assert not of_run(run.paths.root)


def test_a_rank_that_is_killed_is_named(make_run: MakeRun) -> None:
    run = make_run(job("a", tasks=2), behave={"a": [["kill", [1]], ["sleep", 60]]}).start_and_wait()
    end = run.end("a")
    assert (end["class"], end["rank"]) == ("killed", 1)
    assert "SIGKILL" in end["message"]


def test_exit_0_without_a_result_is_no_success(make_run: MakeRun) -> None:
    run = make_run(job("a"), behave={"a": [["no_result"]]}).start_and_wait()
    assert run.state("a") == "failed"
    assert run.end("a")["class"] == "no_result"


def test_a_missing_interpreter_is_said_in_words(make_run: MakeRun) -> None:
    run = make_run(job("a", interpreter="/nowhere/python")).start_and_wait()
    assert run.state("a") == "failed"
    end = run.end("a")
    assert end["class"] == "start"
    assert end["message"] == "cannot start the worker with /nowhere/python: No such file or directory"
    assert "interpreter.train" in end["hint"]


def test_the_time_limit_checkpoints_and_the_next_attempt_goes_on(make_run: MakeRun) -> None:
    behave = {"a": [["sleep", 60], ["checkpoint"]]}
    run = make_run(job("a", time_s=5), behave=behave, signal_lead=2, max_requeues=1)
    handles = run.submit()
    assert run.wait_for("a", "checkpoint")[0]["told"] == ["SIGUSR2"]
    (run.paths.root / "behave.json").write_text("{}")  # what is left fits into the second attempt
    run.wait(handles)
    assert [run.end("a", n)["exit"] for n in (1, 2)] == ["requeued", "succeeded"]


def test_a_worker_that_does_not_listen_is_killed_at_the_time_limit(make_run: MakeRun) -> None:
    run = make_run(job("a", time_s=4), behave={"a": [["deaf"], ["grandchild"], ["sleep", 60]]}, signal_lead=2)
    run.start_and_wait()
    assert run.end("a")["exit"] == "timed_out"
    assert run.end("a")["class"] == "timeout"
    assert run.state("a") == "failed"
    assert not alive(run.notes("a", "grandchild")[0]["child"])


def spans(runs: list[LocalRun]) -> list[tuple[float, float, set[str]]]:
    """(start, end, GPUs) of each run's only job, by start."""
    found = []
    for run in runs:
        begin = run.notes("a", "start")[0]
        gpus = {g for g in begin["env"]["CUDA_VISIBLE_DEVICES"].split(",") if g}
        found.append((begin["time"], run.notes("a", "end")[0]["time"], gpus))
    return found


def test_gpus_are_never_shared_and_queued_in_order(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTCTL_GPUS", "4")
    wants = [2, 3, 1, 2]  # 3 waits for the first 2; 1 may not overtake 3
    runs = [make_run(job("a", gpus=n, tasks=1), behave={"a": [["sleep", 0.6]]}) for n in wants]
    handles = [run.submit() for run in runs]
    for run, handle in zip(runs, handles, strict=True):
        run.wait(handle)
    found = spans(runs)
    assert [len(gpus) for *_, gpus in found] == wants
    assert all(gpus <= {"0", "1", "2", "3"} for *_, gpus in found)
    for i, (begin, end, gpus) in enumerate(found):
        for other_begin, other_end, others in found[i + 1 :]:
            assert end <= other_begin or other_end <= begin or not gpus & others
    assert found[1][0] >= found[0][1]  # 2 + 3 > 4
    assert found[2][0] >= found[0][1]  # behind the 3, although a GPU was free


def test_cpu_jobs_wait_beyond_the_limit(make_run: MakeRun) -> None:
    runs = [make_run(job("a"), behave={"a": [["sleep", 0.2]]}, max_parallel=1) for _ in range(3)]
    handles = [run.submit() for run in runs]
    for run, handle in zip(runs, handles, strict=True):
        run.wait(handle)
    found = sorted(spans(runs), key=lambda span: span[0])  # supervisors may come to the queue out of turn
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(found))


def test_more_gpus_than_the_machine_has_are_refused_at_once(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTCTL_GPUS", "2")
    run = make_run(job("a", gpus=4))
    with pytest.raises(UserError, match="4 GPUs asked, this machine has 2"):
        run.submit()
    assert not run.paths.journal.exists()


def test_two_nodes_are_refused_at_once(make_run: MakeRun) -> None:
    run = make_run(job("a", nodes=2))
    with pytest.raises(UserError, match="asks for 2 nodes"):
        run.submit()
    assert not run.paths.journal.exists()


SUBMIT = """
import sys
from latentctl.launch.local import LocalExecutor
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.spec.cluster import ClusterProfile
from pathlib import Path
run = RunPaths(Path(sys.argv[1]))
LocalExecutor(ClusterProfile(name="local", executor="local")).submit(run, Plan.load(run.plan))
"""


def test_a_run_survives_its_terminal(make_run: MakeRun) -> None:
    run = make_run(job("a"), behave={"a": [["sleep", 1.0]]})
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-c", SUBMIT, str(run.paths.root)],
                  {**os.environ, "PYTHONPATH": str(REPO)})  # fmt: skip
    run.wait_for("a", "start")
    os.close(terminal)  # hangs up: SIGHUP to whoever still belongs to the terminal
    os.waitpid(pid, 0)
    eventually(lambda: run.state("a") == "succeeded", "success after the terminal was closed")


def test_a_second_submit_does_not_run_anything_twice(make_run: MakeRun) -> None:
    run = make_run(job("a"), behave={"a": [["sleep", 0.8]]})
    first = run.submit()
    assert run.submit() == first
    run.wait(first)
    assert len(run.notes("a", "start")) == 1
    assert run.submit() == []  # nothing left to do
    assert len(run.notes("a", "start")) == 1


def test_two_submits_at_the_same_moment_start_one_supervisor(make_run: MakeRun) -> None:
    run = make_run(job("a"), behave={"a": [["sleep", 0.5]]})
    command = [sys.executable, "-c", SUBMIT, str(run.paths.root)]
    both = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPO)}) for _ in range(2)]
    assert [p.wait(20) for p in both] == [0, 0]
    eventually(lambda: run.state("a") == "succeeded", "success")
    assert len(run.notes("a", "start")) == 1


def test_cancel_ends_every_process_of_every_job(make_run: MakeRun) -> None:
    behave: dict[str, list[Any]] = {"a": [["grandchild"], ["sleep", 60]]}
    run = make_run(job("a", tasks=2), job("b", "a"), job("done"), behave=behave, max_parallel=2)
    handles = run.submit()
    children = [n["child"] for n in run.wait_for("a", "grandchild", 2)]
    eventually(lambda: run.state("done") == "succeeded", "the short job")
    pids = [n["pid"] for n in run.notes("a", "start")] + children
    assert all(map(alive, pids))
    run.executor.cancel(run.paths, handles)
    assert not any(map(alive, pids))
    assert not of_run(run.paths.root)
    assert not run.alive(handles)
    assert {n: run.state(n) for n in ("a", "b", "done")} == {
        "a": "cancelled",
        "b": "cancelled",
        "done": "succeeded",
    }
    assert run.end("a")["exit"] == "cancelled"
    before = run.events("a") + run.events("b")
    run.executor.cancel(run.paths, handles)  # idempotent
    assert run.events("a") + run.events("b") == before


def test_a_cancelled_run_goes_on_when_submitted_again(make_run: MakeRun) -> None:
    run = make_run(job("a"), job("b", "a"), behave={"a": [["sleep", 60]]})
    handles = run.submit()
    run.wait_for("a", "start")
    run.executor.cancel(run.paths, handles)
    (run.paths.root / "behave.json").write_text("{}")
    run.wait(run.submit())
    assert run.state("a") == run.state("b") == "succeeded"
    assert [p.number for p in run.paths.job("a").attempts()] == [1, 2]
    assert not list((run.paths.root.parents[1] / "state").rglob("tickets/*.json"))  # nothing stays leased


def test_a_run_submitted_again_the_moment_it_failed_goes_on(make_run: MakeRun) -> None:
    """Its supervisor still lives then, but starts nothing any more."""
    run = make_run(job("a"), behave={"a": [["fail", "no", True, [0]]]})
    run.submit()
    while run.state("a") != "failed":
        time.sleep(0.005)
    (run.paths.root / "behave.json").write_text("{}")
    run.wait(run.submit())
    assert run.state("a") == "succeeded"


def test_cancel_works_without_a_supervisor(make_run: MakeRun) -> None:
    run = make_run(job("a"), behave={"a": [["grandchild"], ["sleep", 60]]})
    handles = run.submit()
    child = run.wait_for("a", "grandchild")[0]["child"]
    kill_supervisor(run)
    assert alive(child)
    run.executor.cancel(run.paths, handles)
    assert not alive(child)
    assert not of_run(run.paths.root)
    assert run.state("a") == "cancelled"


def test_after_the_supervisors_death_a_resubmission_checkpoints_the_leftovers_and_goes_on(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTCTL_GPUS", "1")
    run = make_run(job("a", gpus=1), behave={"a": [["sleep", 30], ["checkpoint"]]}, signal_lead=20)
    handles = run.submit()
    old = run.wait_for("a", "start")[0]
    kill_supervisor(run)
    assert [f.state for f in run.executor.query(handles)] == ["gone"]
    assert alive(old["pid"])  # goes on alone

    rival = make_run(job("a", gpus=1))  # the orphan's GPU is not free
    rival_handles = rival.submit()
    time.sleep(0.7)
    assert not rival.notes("a", "start")

    (run.paths.root / "behave.json").write_text("{}")
    run.wait(run.submit())
    assert [p.number for p in run.paths.job("a").attempts()] == [1, 2]
    assert run.notes("a", "checkpoint")[0]["time"] < run.notes("a", "start")[1]["time"]
    assert not alive(old["pid"])
    assert run.state("a") == "succeeded"
    rival.wait(rival_handles)
    assert rival.state("a") == "succeeded"


def test_an_entry_that_is_killed_takes_its_worker_along(make_run: MakeRun) -> None:
    run = make_run(job("a"), behave={"a": [["sleep", 60]]})
    handles = run.submit()
    worker = run.wait_for("a", "start")[0]["pid"]
    info = json.loads(run.paths.job("a").attempt(1).info.read_text())
    os.kill(info["pid"], signal.SIGKILL)
    run.wait(handles)
    assert not alive(worker)
    assert run.state("a") == "failed"
    assert run.end("a")["message"] == "the job's processes ended without a word"


def test_a_vanished_run_directory_stops_everything_and_does_not_come_back(make_run: MakeRun) -> None:
    run = make_run(job("a", tasks=2), behave={"a": [["sleep", 60]]})
    handles = run.submit()
    pids = [n["pid"] for n in run.wait_for("a", "start", 2)]
    shutil.rmtree(run.paths.root)
    run.wait(handles)
    assert not any(map(alive, pids))
    assert not run.paths.root.exists()


def test_a_terminated_supervisor_lets_its_jobs_checkpoint(make_run: MakeRun) -> None:
    run = make_run(job("a"), job("b", "a"), behave={"a": [["sleep", 30], ["checkpoint"]]})
    handles = run.submit()
    run.wait_for("a", "start")
    owner = last_owner(run.paths.supervisor_lease)
    assert owner is not None
    os.kill(owner.pid, signal.SIGTERM)
    run.wait(handles)
    assert run.notes("a", "checkpoint")[0]["told"] == ["SIGTERM"]
    assert run.end("a")["exit"] == "preempted"
    assert "requeued" not in run.events("a")
    assert "skipped" not in run.events("b")
    (run.paths.root / "behave.json").write_text("{}")
    run.wait(run.submit())
    assert run.state("a") == run.state("b") == "succeeded"


def test_leased_gpus_are_shared_out_to_the_processes(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTCTL_GPUS", "2,3,5,7")
    run = make_run(job("a", tasks=2, gpus=4)).start_and_wait()
    assert run.state("a") == "succeeded"
    seen = {n["rank"]: n["env"]["CUDA_VISIBLE_DEVICES"] for n in run.notes("a", "start")}
    assert seen == {0: "2,3", 1: "5,7"}


def test_a_supervisor_that_cannot_start_is_one_clear_error(make_run: MakeRun) -> None:
    run = make_run(job("a"), interpreter={"entry": "/bin/false"})
    with pytest.raises(UserError, match="the supervisor did not start") as raised:
        run.submit()
    assert raised.value.code == Exit.CLUSTER


def test_preview_shows_the_command_of_each_process(make_run: MakeRun) -> None:
    run = make_run(job("a", tasks=2, gpus=2))
    text = run.executor.preview(run.paths, run.plan, run.plan.jobs[0])
    assert text == (
        f"PYTHONPATH={run.paths.code} RANK=0..1 WORLD_SIZE=2 CUDA_VISIBLE_DEVICES='<1 of 2 leased>' "
        f"{sys.executable} -m jobs.worker {run.paths.root} a ATTEMPT"
    )


def test_a_command_that_is_killed_while_it_submits_leaves_a_run_that_can_be_cancelled(
    make_run: MakeRun,
) -> None:
    """The supervisor, not the command, says that it has the jobs."""
    run = make_run(job("a"), behave={"a": [["sleep", 60]]})
    killed = SUBMIT.replace(
        "LocalExecutor(Cluster",
        "import os, signal, subprocess\n"
        "start = subprocess.Popen.__init__\n"
        "def then_die(self, *a, **k):\n    start(self, *a, **k)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "subprocess.Popen.__init__ = then_die\nLocalExecutor(Cluster",
    )
    done = subprocess.run(
        [sys.executable, "-c", killed, str(run.paths.root)], env={**os.environ, "PYTHONPATH": str(REPO)}
    )
    assert done.returncode == -signal.SIGKILL
    pid = run.wait_for("a", "start")[0]["pid"]
    assert run.events("a") == ["submitting", "submitted", "started"]
    handles = run.submit()  # finds what the killed command started
    assert run.alive(handles)
    run.executor.cancel(run.paths, handles)
    assert not alive(pid)
    assert run.state("a") == "cancelled"
