"""`submit --debug` runs its jobs in this terminal, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch_harness import MakeRun, job

from latentctl.errors import UserError
from latentctl.launch.foreground import run_jobs
from latentctl.launch.leases import Machine, state_dir


def test_jobs_run_here_and_speak_to_this_terminal(
    make_run: MakeRun, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(job("a"), job("b", "a"))
    assert run_jobs(run.paths, run.plan) == ("b", 0)
    assert capfd.readouterr().out == "rank 0 speaks\n" * 2
    assert run.notes("a", "end")[0]["time"] < run.notes("b", "start")[0]["time"]


def test_the_first_job_that_fails_is_named(make_run: MakeRun) -> None:
    run = make_run(job("a"), job("b", "a"), behave={"a": [["exit", 3, [0]]]})
    assert run_jobs(run.paths, run.plan) == ("a", 3)
    assert not run.notes("b")


def test_a_gpu_that_somebody_has_is_not_used(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTCTL_GPUS", "2")
    machine = Machine(state_dir(), lambda: [0, 1])
    assert machine.grant(machine.ask(Path("/other"), "a", 1), max_parallel=1) is not None
    run = make_run(job("a", gpus=1))
    assert run_jobs(run.paths, run.plan) == ("a", 0)
    assert run.notes("a", "start")[0]["env"]["CUDA_VISIBLE_DEVICES"] == "1"
    assert machine.grant(machine.ask(Path("/other"), "b", 1), max_parallel=1) is not None  # given back


def test_a_missing_interpreter_is_one_clear_error(make_run: MakeRun) -> None:
    run = make_run(job("a", interpreter="/nowhere/python"))
    with pytest.raises(UserError, match="the interpreter of job a does not start: No such file"):
        run_jobs(run.paths, run.plan)
