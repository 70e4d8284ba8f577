"""What follows failures on real daemons, by the rules of the run."""

from __future__ import annotations

import json

from latentctl.faults.load import resolved
from latentctl.record.nodes import excluded

ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"


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


def test_a_killed_rank_of_two_nodes_starts_again_with_the_other(make_run):
    behave = {"do": "break", "rank": 1, "says": "no word", "killed": True}
    run = make_run({"train": behave}, nodes=2)
    resolved({"retries": 1}).save(run.paths.faults)
    (handle,) = run.submit()
    run.wait(lambda: run.state() == "succeeded", seconds=120, what="success after the retry")
    assert (run.end(1)["exit"], run.end(1)["rank"], run.end(1)["rule"]) == ("retried", 1, "killed")
    assert run.executor.query([handle])[0].restarts == 1
