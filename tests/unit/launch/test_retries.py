"""What follows a failure, by the rules of the run: started again, how often, and when not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from launch_harness import LocalRun, MakeRun, job

from latentctl.faults.load import resolved
from latentctl.launch.sequel import spent
from latentctl.record.atomic import write_json
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan


def with_rules(run: LocalRun, retries: int = 3, **faults: Any) -> LocalRun:
    resolved({"retries": retries, **faults}).save(run.paths.faults)
    return run


def ends(run: LocalRun, name: str = "a") -> list[str]:
    return [run.end(name, paths.number)["exit"] for paths in run.paths.job(name).attempts()]


def test_a_killed_worker_is_started_again_until_it_does(make_run: MakeRun) -> None:
    run = with_rules(make_run(job("a"), job("b", "a"), behave={"a": [["kill_below", 3, [0]]]}))
    run.start_and_wait()
    assert ends(run) == ["retried", "retried", "succeeded"]
    first = run.end("a", 1)
    assert (first["class"], first["rule"]) == ("killed", "killed")
    assert first["message"].endswith("was killed by SIGKILL; started again (retry 1 of 3)")
    assert run.events("a") == [
        "submitting", "submitted", "started", "requeued", "started", "requeued", "started", "succeeded",
    ]  # fmt: skip
    assert run.state("a") == run.state("b") == "succeeded"


def test_it_is_given_up_after_the_last_retry_and_its_children_are_skipped(make_run: MakeRun) -> None:
    run = with_rules(make_run(job("a"), job("b", "a"), behave={"a": [["kill", [0]]]}), retries=2)
    run.start_and_wait()
    assert ends(run) == ["retried", "retried", "failed"]
    assert run.end("a")["message"].endswith("; failed after 2 retries")
    assert (run.state("a"), run.state("b")) == ("failed", "skipped")


def test_used_up_gpu_hours_end_the_retries(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTCTL_GPUS", "1")
    made = make_run(job("a", gpus=1), behave={"a": [["kill_below", 3, [0]]]}, max_gpu_hours=1e-9)
    run = with_rules(made).start_and_wait()
    assert ends(run) == ["failed"]
    assert "not started again: it has used" in run.end("a")["message"]
    assert run.state("a") == "failed"


@pytest.mark.parametrize(
    "how", [["user_error", None], ["code", "python_error"], ["data", "hub_offline"], ["odd", None]]
)
def test_what_would_fail_again_is_not_started_again(make_run: MakeRun, how: list[Any]) -> None:
    run = with_rules(make_run(job("a"), behave={"a": [["fail_below", 9, *how]]})).start_and_wait()
    assert ends(run) == ["failed"]
    assert run.end("a")["message"] == "it failed"


def test_a_profile_may_say_otherwise(make_run: MakeRun) -> None:
    rules = {"actions": {"hub_offline": "requeue"}}
    behave = {"a": [["fail_below", 2, "data", "hub_offline"]]}
    run = with_rules(make_run(job("a"), behave=behave), **rules).start_and_wait()
    assert ends(run) == ["retried", "succeeded"]


def test_without_rules_or_retries_a_failure_is_the_end(make_run: MakeRun) -> None:
    for run in (make_run(job("a"), behave={"a": [["kill", [0]]]}),
                with_rules(make_run(job("a"), behave={"a": [["kill", [0]]]}), retries=0)):  # fmt: skip
        assert ends(run.start_and_wait()) == ["failed"]


def test_out_of_memory_halves_the_micro_batch_at_the_same_global_batch(make_run: MakeRun) -> None:
    behave = {"a": [["fail_below", 9, "out_of_memory", "cuda_oom"]]}
    run = with_rules(make_run(job("a"), behave=behave), retries=5)
    stage = {"name": "a", "train": {"batch": 36, "micro_batch": 6}}
    other = {"name": "b", "train": {"batch": 8, "micro_batch": 8}}
    write_json(run.paths.spec, {"experiment": {"stages": [stage, other]}})
    run.start_and_wait()
    assert ends(run) == ["retried", "retried", "failed"]  # 6, 3, 1: no smaller one is left
    assert json.loads(run.paths.job("a").adjustments.read_text()) == {"micro_batch": {"a": 1}}
    assert run.end("a", 1)["message"].endswith("started again with a smaller micro-batch (retry 1 of 5): a 3")


def test_retries_and_requeues_are_counted_apart(make_run: MakeRun) -> None:
    behave = {"a": [["kill_below", 2, [0]], ["requeue_below", 3]]}
    run = with_rules(make_run(job("a"), behave=behave, max_requeues=1), retries=1).start_and_wait()
    assert ends(run) == ["retried", "requeued", "succeeded"]


def test_ranks_that_failed_together_start_together_again(make_run: MakeRun) -> None:
    run = with_rules(
        make_run(job("a", tasks=2), behave={"a": [["kill_below", 2, [1]], ["sleep_on", 9, [0]]]})
    )
    handles = run.submit()
    run.wait(handles, 40)
    assert ends(run)[0] == "retried"
    assert {n["rank"] for n in run.notes("a", "start") if n["attempt"] == 2} == {0, 1}
    assert not run.notes("a", "twice")


def test_a_cancelled_job_that_fails_on_the_way_stays_cancelled(make_run: MakeRun) -> None:
    run = with_rules(make_run(job("a"), behave={"a": [["sleep", 30], ["kill", [0]]]}))
    handles = run.submit()
    run.wait_for("a", "start")
    run.executor.cancel(run.paths, handles)
    run.wait(handles)
    assert run.state("a") == "cancelled"
    assert len(run.paths.job("a").attempts()) == 1


def test_gpu_hours_count_every_attempt_since_the_job_last_ended(tmp_path: Path) -> None:
    plan = Plan("run", "0" * 64, {"max_gpu_hours": 2.5}, [job("a", gpus=2)])
    paths = RunPaths(tmp_path).job("a")
    hours = {1: (0, 5, "failed"), 2: (10, 11, "requeued"), 3: (12, None, None), 4: (13, 13.5, "failed")}
    for number, (begin, end, how) in hours.items():
        at = paths.attempt(number)
        at.root.mkdir(parents=True)
        write_json(at.info, {"time": clock(begin)})
        if end is not None:
            write_json(at.end, {"time": clock(end), "exit": how})
    assert spent(plan, plan.jobs[0], paths, paths.attempt(2)) is None
    assert spent(plan, plan.jobs[0], paths, paths.attempt(4)) == "it has used 5 of 2.5 GPU-hours"
    assert spent(replace(plan, cluster={}), plan.jobs[0], paths, paths.attempt(4)) is None


def clock(hour: float) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)).isoformat()


def test_a_retry_waits_as_its_rule_says(make_run: MakeRun) -> None:
    rule = {"name": "busy", "class": "data", "patterns": ["it failed"], "action": "requeue", "wait": 1.0}
    run = with_rules(make_run(job("a"), behave={"a": [["fail_below", 3, "data"]]}), rules=[rule])
    run.start_and_wait()
    assert ends(run) == ["retried", "retried", "succeeded"]
    assert [run.end("a", n).get("wait_s") for n in (1, 2, 3)] == [1.0, 2.0, None]
    begun = [note["time"] for note in run.notes("a", "start")]
    assert begun[1] - begun[0] > 1.0
    assert begun[2] - begun[1] > 2.0
