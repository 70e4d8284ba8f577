"""Runs from the command line: exit codes, streams, and what is on disk afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from cli_world import Done, World, until

from latentctl.record.journal import process_start


def beating(world: World) -> Path | None:
    return next(world.runs.glob("tiny-*/jobs/*/heartbeat.json"), None)


def test_submit_wait_shows_progress_on_stderr_and_the_result_on_stdout(world: World) -> None:
    done = world("submit", "recipe.yaml", "--wait")
    (run,) = world.run_names()
    assert "75.0 %" in done.out
    assert "score" in done.out
    assert f"submitted {run}" in done.err
    assert f"{run}: succeeded" in done.err
    assert f"latentctl show {run}" in done.err

    shown = world("show", "@last")
    for part in (
        run,
        "succeeded",
        "stage sft (sft) from model",
        "loss",
        "0.5 → 0.25",
        "75.0 %",
        str(world.runs / run),
    ):
        assert part in shown.out, part
    data = world("show", "tiny", "--json").json["data"]
    assert data["results"]["score"]["accuracy"] == 0.75
    assert data["spec"]["stages"][0]["method"] == "sft"
    assert [a["exit"] for a in data["attempts"]["sft+score"]] == ["succeeded"]
    assert len(data["metrics"]["sft+score"]) == 6

    table = world("status").out
    assert "accuracy 75.0 %" in table
    assert world("status", "--exit-code").code == 0
    assert "worker of attempt 1: ok" in world("logs", "@last").out


def test_the_same_again_is_named_and_rerun_runs_it_again(world: World) -> None:
    world("submit", "recipe.yaml", "--wait")
    (run,) = world.run_names()
    again = world("submit", "recipe.yaml", "--json")
    assert again.json["data"]["runs"][0] == {
        "run": run, "created": False, "path": str(world.runs / run), "jobs": ["sft+score"],
    }  # fmt: skip
    assert "--rerun" in again.err
    assert "succeeded" in again.err
    assert world.run_names() == [run]
    world("submit", "recipe.yaml", "--rerun", "--wait")
    assert world.run_names() == [run, f"{run}-r2"]


def test_a_failed_run_exits_1_with_the_error_of_the_first_rank(world: World) -> None:
    world.behave("fail")
    done = world("submit", "recipe.yaml", "--wait", code=1)
    assert "row 7 is broken" in done.err
    assert "| ValueError: row 7" in done.err
    assert "hint: mend row 7" in done.err
    assert "latentctl retry" in done.err
    assert done.out == ""
    assert world("status", "--exit-code", code=1).code == 1
    assert "Traceback: the stand-in broke" in world("logs", "@last", "--stderr").out
    failure = world("status", "--json").json["data"]["runs"][0]["jobs"][0]["failure"]
    assert (failure["class"], failure["message"], failure["rank"]) == ("data", "row 7 is broken", 0)


def test_retry_makes_a_new_attempt_of_the_same_run(world: World) -> None:
    world.behave("fail,ok")
    world("submit", "recipe.yaml", "--wait", code=1)
    done = world("retry", "@last", "--wait")
    assert "75.0 %" in done.out
    assert len(world.run_names()) == 1
    data = world("show", "@last", "--json").json["data"]
    assert [(a["attempt"], a["exit"]) for a in data["attempts"]["sft+score"]] == [
        (1, "failed"),
        (2, "succeeded"),
    ]
    assert "worker of attempt 2: ok" in world("logs", "@last", "--attempt", "2").out
    assert "has succeeded" in world("retry", "@last", code=2).err


def test_a_remembered_run_looks_as_it_did_and_a_retry_is_seen(world: World) -> None:
    world.behave("fail,ok")
    world("submit", "recipe.yaml", "--wait", code=1)
    journal = world.runs / world.run_names()[0] / "journal"
    os.utime(journal, (time.time() - 3600,) * 2)
    first = [world("status", *how).out for how in ((), ("--json",))]
    cache = world.runs / ".settled"
    kept = cache.read_text()
    cache.write_text(kept.replace("row 7 is broken", "row 7 was broken"))
    again = [world("status", *how, "--exit-code", code=1).out for how in ((), ("--json",))]
    assert again == [text.replace("row 7 is broken", "row 7 was broken") for text in first]
    assert "row 7 is broken" in world("status", "@last").out, "a run asked for by name is read"
    world("retry", "@last", "--wait")
    assert "succeeded" in world("status", "--exit-code").out


def test_ctrl_c_while_waiting_lets_the_job_go_on(world: World) -> None:
    world.behave("slow,ok")
    process = world.popen("submit", "recipe.yaml", "--wait")
    until(lambda: beating(world))
    done = world.interrupt(process)
    assert done.code == 5
    assert "goes on" in done.err
    assert "latentctl cancel" in done.err
    assert "Traceback" not in done.err
    assert world("status", "@last", "--exit-code", code=8).out.count("running") >= 1

    again = world("submit", "recipe.yaml")
    assert "is running; nothing was started" in again.err
    assert "goes on" in world("retry", "@last", code=2).err
    cancelled = world("cancel", "@last")
    assert "cancelled tiny" in cancelled.err
    assert world("status", "@last", "--exit-code", code=1).out.count("cancelled") >= 1
    assert "has ended already" in world("cancel", "@last").err
    assert "75.0 %" in world("retry", "@last", "--wait").out


def test_ctrl_c_while_submitting_leaves_nothing_or_a_whole_run(world: World) -> None:
    """At whatever moment it comes: exit 130 and nothing, or it was too late and the run is whole."""
    world.behave("slow")
    for delay in (0.25, 0.45, 0.6, 0.75, 0.9):
        process = world.popen("submit", "recipe.yaml")
        threading.Event().wait(delay)
        done = world.interrupt(process)
        names = world.run_names()
        if names:  # too late: it was submitted, whatever became of the command's last words
            assert len(names) == 1
            assert world("status", "--json").json["data"]["runs"][0]["state"] in ("pending", "running")
            world("cancel", "@last")
            break
        assert done.code != 0
        early = done.code == -signal.SIGINT or "KeyboardInterrupt" in done.err  # before our main was reached
        assert done.code == 130 or early, done


def supervisor(world: World) -> int:
    """The pid of the newest run's supervisor, from its scheduler id."""
    job = world("status", "@last", "--json").json["data"]["runs"][0]["jobs"][0]
    return int(job["scheduler_id"].split(":")[0])


def test_a_run_whose_supervisor_was_killed_is_not_called_running_and_retry_resumes_it(world: World) -> None:
    world.behave("slow,ok")
    world("submit", "recipe.yaml")
    beat = until(lambda: beating(world))
    worker = json.loads(beat.read_text())["pid"]
    os.kill(supervisor(world), signal.SIGKILL)
    alive = world("status", "@last", "--json").json["data"]["runs"][0]["jobs"][0]
    assert alive["state"] == "unknown"
    assert "its worker still runs" in alive["why"]
    done = world("retry", "@last", "--wait")
    assert "75.0 %" in done.out
    assert process_start(worker) is None  # a zombie that nobody has reaped yet does not run
    data = world("show", "@last", "--json").json["data"]
    assert [a["attempt"] for a in data["attempts"]["sft+score"]] == [1, 2]


def test_a_run_that_a_reboot_ended_is_lost_and_retry_resumes_it(world: World) -> None:
    """As after a reboot: supervisor, entry and worker are gone without a word."""
    world.behave("slow,ok")
    world("submit", "recipe.yaml")
    beat = until(lambda: beating(world))
    worker = json.loads(beat.read_text())["pid"]
    entry = json.loads((beat.parent / "attempts" / "1" / "attempt.json").read_text())["pid"]
    for pid in (supervisor(world), entry, worker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{entry}").exists() or "Z" in Path(f"/proc/{entry}/stat").read_text())
    job = world("status", "@last", "--json").json["data"]["runs"][0]["jobs"][0]
    assert (job["state"], "supervisor" in job["why"]) == ("lost", True)
    assert world("status", "@last", "--exit-code", code=1).code == 1
    assert "75.0 %" in world("retry", "@last", "--wait").out


def test_debug_runs_in_the_foreground_and_keeps_nothing(world: World) -> None:
    done = world("submit", "recipe.yaml", "--debug")
    assert "worker of attempt 1: ok" in done.out
    assert "75.0 %" in done.out
    assert not world.runs.exists()
    world.behave("fail")
    failed = world("submit", "recipe.yaml", "--debug", code=1)
    assert "Traceback: the stand-in broke" in failed.err
    assert "ended with exit code 1" in failed.err
    assert not world.runs.exists()


def test_two_submits_at_once_make_one_run(world: World) -> None:
    world.behave("slow")
    processes = [world.popen("submit", "recipe.yaml", "--json") for _ in range(3)]
    answers = [Done(p.returncode, out, err) for p in processes for out, err in [p.communicate(timeout=60)]]
    rows = [a.json["data"]["runs"][0] for a in answers]
    assert [a.code for a in answers] == [0, 0, 0]
    assert sorted(r["created"] for r in rows) == [False, False, True]
    assert len(world.run_names()) == 1


def test_logs_follow_across_attempts_until_the_end(world: World) -> None:
    world.behave("fail,ok")
    world("submit", "recipe.yaml", "--wait", code=1)
    world("retry", "@last")
    out = world("logs", "@last", "-f").out
    assert out.index("worker of attempt 1: fail") < out.index("worker of attempt 2: ok")


def test_a_sweep_is_a_set_of_ordinary_runs(world: World) -> None:
    done = world("sweep", "recipe.yaml", "--grid", "train.lr=1e-3,1e-4", "--wait")
    assert "lr=0.001" in done.out
    assert "lr=0.0001" in done.out
    assert len(world.run_names()) == 2
    (listed,) = world.runs.glob("sweeps/*/sweep.json")
    sweep = json.loads(listed.read_text())
    assert [p["varies"] for p in sweep["points"]] == [{"train.lr": 1e-3}, {"train.lr": 1e-4}]
    table = world("status").out
    assert f"sweep {sweep['id']}" in table
    assert "2 succeeded" in table
    assert "lr=0.0001" in table
    shown = world("show", sweep["id"]).out
    assert "75.0 %" in shown
    again = world("sweep", "recipe.yaml", "--grid", "train.lr=1e-3,1e-4")
    assert "submitted 0 of 2 points" in again.err


def test_eval_of_a_run_is_a_run_that_starts_from_its_stage(world: World) -> None:
    world("submit", "recipe.yaml", "--wait")
    (run,) = world.run_names()
    missing = world("eval", "--checkpoint", "@last", "--dataset", "gsm8k", code=3)
    assert "has left no weights" in missing.err
    (world.runs / run / "jobs" / "sft+score" / "stages" / "sft" / "model").mkdir()
    done = world(
        "eval", "--checkpoint", f"{run}/sft", "--dataset", "gsm8k", "--limit", "5", "--dry-run", "--json"
    )
    plan = done.json["data"]["runs"][0]
    assert plan["stages"] == {"eval": []}
    done = world("eval", "--checkpoint", "tiny", "--dataset", "gsm8k", "--limit", "5")
    assert "75.0 %" in done.out
    spec = world("show", "@last", "--json").json["data"]["spec"]["stages"][0]
    assert (spec["from"], spec["dataset"]["limit"], spec["model"]["path"]) == (
        f"run:{run}/sft",
        5,
        "some/model",
    )
    assert "no stage" in world("eval", "--checkpoint", f"{run}/none", "--dataset", "gsm8k", code=3).err


@pytest.mark.parametrize("command", ["status", "logs", "show", "cancel", "retry"])
def test_every_command_says_the_same_of_a_run_that_is_not_there(world: World, command: str) -> None:
    done = world(command, "nothing", "--json", code=3)
    assert done.json["ok"] is False
    assert done.json["error"]["kind"] == "not_found"
    assert done.err.startswith("error: no run")
