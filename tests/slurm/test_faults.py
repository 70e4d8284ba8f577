"""What follows failures on real daemons, by the rules of the run."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime

from conftest import profile

from latentctl.faults.load import resolved
from latentctl.record.nodes import exclude, excluded

ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"


def with_rules(run):
    resolved({"retries": 2}).save(run.paths.faults)
    return run


def nodes_of(run, attempt: int) -> str:
    return json.loads(run.job().attempt(attempt).info.read_text())["nodes"]


def test_a_node_whose_gpu_broke_is_left_out_by_the_requeued_job_and_by_the_next_run(make_run):
    run = make_run({"train": {"do": "break", "rank": 0, "says": ECC}})
    resolved({"retries": 2, "exclude_for": 3600}).save(run.paths.faults)
    run.submit()
    run.wait(lambda: run.state() == "succeeded", seconds=120, what="success elsewhere")
    end = run.end(1)
    assert (end["exit"], end["class"], end["rule"]) == ("retried", "node", "gpu_broken")
    first, second = nodes_of(run, 1), nodes_of(run, 2)
    assert first != second
    assert end["message"].endswith(
        f"started again on other nodes (retry 1 of 2); {first} is left out for 1 h"
    )
    assert list(excluded(run.paths.root.parent, "devbox")) == [first]
    after = make_run({"train": {"do": "meet"}})
    script = after.executor.preview(after.paths, after.plan, after.plan.job("train"))
    assert f"#SBATCH --exclude={first}\n" in script


def test_killed_entries_leave_a_word_and_the_job_starts_again(make_run):
    """As when the kernel kills them for memory: nothing of ours is left on the node but the batch script."""
    run = with_rules(make_run({"train": {"do": "checkpoint"}}))
    run.submit()
    run.wait(lambda: (run.job().root / "waiting-0").exists(), what="the first attempt")
    pid = json.loads(run.job().attempt(1).info.read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    (run.job().root / "saved-0").write_text("attempt 1, killed")  # what it had saved before
    run.wait(lambda: run.state() == "succeeded", what="the second attempt")
    first = run.end(1)
    assert (first["exit"], first["rule"], first["class"]) == ("retried", "killed", "killed")
    assert "the job's processes were killed by SIGKILL; started again (retry 1 of" in first["message"]
    assert run.end(2)["exit"] == "succeeded"


def test_a_cancelled_job_stays_cancelled_though_its_entry_was_killed(make_run):
    run = with_rules(make_run({"train": {"do": "hang"}}))
    run.submit()
    run.wait(lambda: (run.job().root / "waiting-0").exists(), what="the first attempt")
    run.executor.cancel(run.paths, run.handles)
    os.kill(json.loads(run.job().attempt(1).info.read_text())["pid"], signal.SIGKILL)
    run.wait_until_over()
    assert run.state() == "cancelled"
    assert len(run.job().attempts()) == 1


def test_a_killed_rank_of_two_nodes_starts_again_with_the_other(make_run):
    behave = {"do": "break", "rank": 1, "says": "no word", "killed": True}
    run = make_run({"train": behave}, nodes=2)
    resolved({"retries": 1}).save(run.paths.faults)
    (handle,) = run.submit()
    run.wait(lambda: run.state() == "succeeded", seconds=120, what="success after the retry")
    assert (run.end(1)["exit"], run.end(1)["rank"], run.end(1)["rule"]) == ("retried", 1, "killed")
    assert run.executor.query([handle])[0].restarts == 1


def test_a_busy_server_is_waited_for(make_run):
    run = make_run({"train": {"do": "break", "rank": 0, "says": "HTTPError: 503 Server Error: try later"}})
    rule = {
        "name": "slow",
        "class": "data",
        "patterns": ["503 Server Error"],
        "action": "requeue",
        "wait": 15,
    }
    resolved({"retries": 2, "rules": [rule]}).save(run.paths.faults)
    run.submit()
    run.wait(lambda: run.state() == "succeeded", seconds=90, what="the second attempt")
    first, second = (json.loads(run.job().attempt(n).info.read_text())["time"] for n in (1, 2))
    assert run.end(1)["message"].endswith("started again in 15 s (retry 1 of 2)")
    assert (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds() > 14


def test_when_no_node_is_left_it_ends_with_the_reason(make_run):
    run = make_run({"train": {"do": "break", "rank": 0, "says": ECC}})
    resolved({"retries": 2, "exclude_for": 3600}).save(run.paths.faults)
    for node in ("node2", "node3", "node4"):
        exclude(run.paths.root.parent, "devbox", node, seconds=3600, run="earlier", rule="gpu_broken")
    run.submit()
    run.wait(lambda: run.state() == "failed", what="the end")
    end = run.end(1)
    assert (
        "; not started again: 4 of the 4 nodes of its partition are left out for their faults"
        in end["message"]
    )
    assert "and it needs 1" in end["message"]
    assert set(excluded(run.paths.root.parent, "devbox")) == {"node2", "node3", "node4"}


def test_a_step_that_srun_refuses_is_named_and_not_tried_again(make_run):
    """Flags of the profile reach srun: here one that no cluster can grant."""
    run = with_rules(make_run({"train": {"do": "checkpoint"}}, on=profile(srun=["--gres=nosuch:1"])))
    run.submit()
    run.wait(lambda: run.state() == "failed", what="the refusal")
    end = run.end(1)
    assert (end["exit"], end["rule"], end["class"]) == ("failed", "step_refused", "user_error"), end
    assert "srun: [--gres=none]" in end["hint"]
    assert len(run.job().attempts()) == 1
