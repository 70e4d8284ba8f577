"""The real worker in real processes, driven by a method without torch."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time

import pytest
from runs_for_tests import Bench, stage, wait_for

from latentctl.record.atomic import read_json, write_json
from latentctl.record.hashes import spec_hash
from latentctl.record.journal import read


def test_a_job_runs_its_stages_in_order_and_leaves_results(bench):
    b: Bench = bench([stage("one", steps=3), {**stage("two", steps=4), "from": "one"}])
    (done,) = b.work()
    assert (done.code, done.err) == (0, "")
    result = read_json(b.job().result)
    assert result["attempt"] == 1
    assert list(result["stages"]) == ["one", "two"]
    one, two = result["stages"]["one"], result["stages"]["two"]
    assert one == read_json(b.job().stage("one").result)
    assert (one["stage"], one["method"], one["attempt"], one["counted"]) == ("one", "light", 1, 3)
    assert one["source"] == "None"
    assert two["source"] == str(b.job().stage("one").model)
    assert one["threads"] == "1"
    assert one["seconds"] >= 0
    assert [(r["stage"], r["step"]) for r in b.metrics()] == [("one", i) for i in (1, 2, 3)] + [
        ("two", i) for i in (1, 2, 3, 4)
    ]
    assert done.out.count("closed") == 2
    assert not b.job().attempts()[-1].failure(0).exists()


def test_a_stage_leaves_no_memory_to_the_next(bench):
    b = bench([stage("one"), stage("two"), stage("three")])
    assert b.work()[0].code == 0
    assert [r["left_over"] for r in read_json(b.job().result)["stages"].values()] == [0, 0, 0]


def test_debug_ends_in_a_debugger_at_the_line_that_failed(bench):
    b = bench([stage(fail_at=2)], debug=True, wandb={})
    terminal, side = pty.openpty()
    os.write(terminal, b"p 'step is', step\nq\n")
    (p,) = b.spawn(stdin=side)
    out, err = p.communicate(timeout=60)
    os.close(terminal)
    os.close(side)
    assert "(Pdb) ('step is', 2)" in out
    assert "nothing is sent to W&B" in err
    assert p.returncode == 1


@pytest.mark.parametrize("fail", ["ValueError('no terminal')", "KeyboardInterrupt()"])
def test_debug_without_a_terminal_just_fails(bench, fail):
    (done,) = bench([stage(fail_at=2, fail=fail)], debug=True).work()
    assert done.code == 1
    assert "Pdb" not in done.out
    assert ("Traceback" in done.err) == ("ValueError" in fail)


def test_the_heartbeat_tells_where_the_job_is(bench):
    b = bench([stage(steps=3)])
    b.work()
    beat = read_json(b.job().heartbeat)
    assert set(beat) == {
        "stage", "step", "total", "unit", "rate", "eta_s", "metrics", "time", "attempt", "pid", "host",
    }  # fmt: skip
    assert (beat["stage"], beat["step"], beat["total"], beat["unit"]) == ("count", 3, 3, "step")
    assert beat["metrics"] == {"loss": pytest.approx(1 / 3)}
    assert beat["attempt"] == 1
    assert beat["eta_s"] == 0


def test_finished_stages_are_not_run_again(bench):
    b = bench([stage("one", steps=2), stage("two", steps=3, fail_at=2)])
    assert b.work()[0].code == 1
    before = b.job().stage("one").result.read_bytes()
    assert not b.job().result.exists()
    # The fault is gone in the second attempt: as if a node had failed.
    write_json(b.job().stage("two").result, {"stage": "two", "attempt": 1})
    assert b.work()[0].code == 0
    assert b.job().stage("one").result.read_bytes() == before
    assert read_json(b.job().result)["attempt"] == 2
    assert [r["stage"] for r in b.metrics()].count("one") == 2


def test_a_stop_signal_is_answered_with_a_checkpoint_and_85_and_the_next_attempt_goes_on(bench):
    b = bench([stage(steps=6, signal_rank=0)])
    first = b.work()[0]
    assert first.code == 85
    assert "at step 2" in first.err
    assert not b.job().result.exists()
    assert b.work()[0].code == 0
    result = read_json(b.job().stage("count").result)
    assert (result["began"], result["attempt"]) == (2, 2)
    assert [(r["step"], r["attempt"]) for r in b.metrics()] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 2),
        (6, 2),
    ]


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_that_comes_while_python_starts_kills_nobody(bench, number):
    """The entry blocks stop signals in its child; the worker finds them pending and stops in good order."""
    b = bench([stage(steps=500, pause=0.05)])
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        (p,) = b.spawn()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    p.send_signal(number)
    assert b.wait([p])[0].code == 85


def test_killed_in_the_middle_it_resumes_from_the_last_checkpoint_and_rewinds_its_metrics(bench):
    b = bench([stage(steps=12, save_every=4, pause=0.05)])
    (p,) = b.spawn()
    wait_for(lambda: b.job().metrics.exists() and len(b.metrics()) >= 6)
    p.kill()
    p.communicate()
    assert b.work()[0].code == 0
    assert read_json(b.job().stage("count").result)["began"] in (4, 8)
    rows = b.metrics()
    assert [r["step"] for r in rows] == list(range(1, 13))
    began = read_json(b.job().stage("count").result)["began"]
    assert [r["attempt"] for r in rows] == [1] * began + [2] * (12 - began)


def test_the_journal_tells_the_stages(bench):
    b = bench([stage()])
    b.work()
    told = [(e["event"], e.get("stage")) for e in read(b.run.journal) if e.get("attempt") == 1]
    assert told == [("stage_started", "count"), ("stage_finished", "count")]


# --- refusals ---------------------------------------------------------------------------


def refused(b: Bench, **kwargs) -> dict:
    (done,) = b.work(**kwargs)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert done.err.startswith("error: ")
    failure = b.failure()
    assert failure["class"] == "user_error"
    assert failure["primary"] is True
    assert not b.job().result.exists()
    return failure


def test_it_refuses_code_that_is_not_the_snapshot(bench, tmp_path):
    b = bench([stage()])
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(b.run.code, elsewhere)
    failure = refused(b, env={"PYTHONPATH": str(elsewhere)})
    assert "not from the run's snapshot" in failure["message"]


def test_it_refuses_a_snapshot_that_was_edited(bench):
    b = bench([stage()])
    with open(b.run.code / "jobs" / "task.py", "a") as f:
        f.write("# a late edit\n")
    assert "changed, added or lost" in refused(b)["message"]


def test_it_refuses_a_plugin_that_was_edited(bench):
    b = bench([stage()])
    with open(b.run.code / "plugins" / "light.py", "a") as f:
        f.write("# a late edit\n")
    assert "changed, added or lost" in refused(b)["message"]


def test_it_refuses_a_spec_that_was_edited(bench):
    b = bench([stage(steps=5)])
    spec = read_json(b.run.spec)
    spec["experiment"]["stages"][0]["light"]["steps"] = 6
    write_json(b.run.spec, spec)
    assert "changed after the submission" in refused(b)["message"]


def test_it_refuses_a_spec_that_was_edited_with_its_hash(bench):
    b = bench([stage(steps=5)])
    spec = read_json(b.run.spec)
    spec["experiment"]["stages"][0]["light"]["steps"] = 6
    spec["spec_hash"] = spec_hash(spec["experiment"])
    write_json(b.run.spec, spec)
    assert "lock.json says" in refused(b)["message"]


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"experiment": 3}', b"\xff\xfe"])
def test_it_refuses_a_damaged_spec(bench, content):
    b = bench([stage()])
    b.run.spec.write_bytes(content)
    assert str(b.run.spec) in refused(b)["where"]


def test_it_refuses_a_job_whose_parent_has_not_succeeded(bench):
    b = bench(
        [stage("one"), stage("two")], jobs={"first": ["one"], "main": ["two"]}, after={"main": ["first"]}
    )
    assert "needs job first" in refused(b)["message"]
    assert b.work("first")[0].code == 0
    assert b.work()[0].code == 0


def test_it_refuses_an_unplanned_number_of_processes(bench):
    b = bench([stage()])
    failure = refused(b, env={"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    assert "planned for 1 processes, 2 were started" in failure["message"]


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"RANK": "x"}, "RANK"),
        ({"RANK": "0", "LOCAL_RANK": "3"}, "impossible place"),
        ({"WORLD_SIZE": "0"}, "imposs"),
    ],
)
def test_it_refuses_an_impossible_place(bench, env, says):
    assert says in refused(bench([stage()]), env=env)["message"]


def test_it_refuses_a_job_that_is_not_planned(bench):
    b = bench([stage()])
    command = [sys.executable, "-m", "jobs.worker", str(b.run.root), "nope", "1"]
    env = {"PYTHONPATH": str(b.run.code), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no job 'nope'; there are main" in done.stderr
    assert not b.job("nope").root.exists()


def test_a_left_over_attempt_stops_and_commits_nothing(bench):
    b = bench([stage(steps=40, pause=0.05)])
    old = b.spawn()
    wait_for(lambda: b.job().heartbeat.exists() and read_json(b.job().heartbeat)["step"] >= 1)
    new = b.spawn()
    (left,) = b.wait(old)
    assert left.code == 1
    assert "attempt 2 has started" in left.err
    failure = json.loads(b.job().attempt(1).failure(0).read_text())
    assert (failure["class"], failure["primary"]) == ("preemption", False)
    assert b.wait(new)[0].code == 0
    assert read_json(b.job().result)["attempt"] == 2
    assert read_json(b.job().heartbeat)["attempt"] == 2


# --- failures ---------------------------------------------------------------------------


def test_a_failing_stage_leaves_its_traceback_and_its_class(bench):
    b = bench([stage(steps=3, fail_at=2, fail="ZeroDivisionError('a step went wrong')")])
    (done,) = b.work()
    assert done.code == 1
    assert "Traceback" in done.err
    failure = b.failure()
    assert (failure["class"], failure["rank"], failure["primary"]) == ("code", 0, True)
    assert failure["message"] == "ZeroDivisionError: a step went wrong"
    assert any("light.py" in line and "raise eval" in line for line in failure["evidence"])
    assert read_json(b.job().heartbeat)["step"] == 1


def test_a_users_mistake_is_one_line_and_a_hint(bench):
    error = "__import__('jobs.runtime.errors', fromlist=['x']).JobUserError"
    fail = f"{error}('no such model', 'look twice', 'a.yaml:3')"
    (done,) = (b := bench([stage(fail_at=1, fail=fail)])).work()
    assert done.code == 2
    assert done.err == "error: a.yaml:3: no such model\nhint: look twice\n"
    assert (b.failure()["hint"], b.failure()["where"]) == ("look twice", "a.yaml:3")


def test_results_that_cannot_be_written_do_fail(bench):
    b = bench([stage(steps=2)])
    b.job().stage("count").root.mkdir(parents=True)
    b.job().stage("count").model.write_text("a file where a folder should go")
    (done,) = b.work()
    assert done.code == 1
    assert not b.job().result.exists()


def test_leftover_helpers_do_not_hold_the_worker(bench):
    """An exit handler that hangs: what counts is on disk, so the worker leaves."""
    hang = "[__import__('atexit').register(__import__('time').sleep, 60), KeyError('x')][1]"
    b = bench([stage(fail_at=1, fail=hang)])
    begin = time.monotonic()
    assert b.work()[0].code == 1
    assert time.monotonic() - begin < 20


# --- where weights come from ------------------------------------------------------------


def source_of(b: Bench, name: str = "two") -> str:
    return read_json(b.job().stage(name).result)["source"]


def test_from_a_step_of_an_earlier_stage(bench):
    b = bench([stage("one", steps=4, save_every=2), {**stage("two"), "from": "one@2"}])
    assert b.work()[0].code == 0
    assert source_of(b) == str(b.job().stage("one").checkpoint(2) / "model")


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("one@best", "kept no best checkpoint"),
        ("one@3", "no whole checkpoint of step 3 "),
        ("one@last", "give @best or the number of a step"),
        ("run:gone-12345678/one", "no run gone-12345678"),
        ("run:gone", "not of the form run:ID/STAGE"),
    ],
)
def test_from_what_is_not_there(bench, ref, says):
    b = bench([stage("one", steps=4, save_every=2), {**stage("two"), "from": ref}])
    failure = refused(b)
    assert says in failure["message"]
    assert failure["where"] == "two.from"


def test_from_another_run(bench):
    first = bench([stage("one", steps=2)])
    assert first.work()[0].code == 0
    second = bench([{**stage("two"), "from": f"run:{first.run.id}/one"}])
    assert second.work()[0].code == 0
    assert source_of(second) == str(first.job().stage("one").model)
    third = bench([{**stage("two"), "from": f"run:{first.run.id}/won"}])
    assert "has no stage won; it has one" in refused(third)["message"]


def test_from_a_directory_and_from_a_hub_id(bench, tmp_path):
    (tmp_path / "weights").mkdir()
    b = bench([{**stage("two"), "from": str(tmp_path / "weights")}, {**stage("three"), "from": "org/name"}])
    assert b.work()[0].code == 0
    assert source_of(b) == str(tmp_path / "weights")
    assert source_of(b, "three") == "org/name"
