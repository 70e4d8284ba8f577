"""Signals, cancels, requeues and failing ranks on real daemons."""

from __future__ import annotations

import subprocess

import pytest

from latentctl.launch import slurm_client


def waiting(run, world: int = 1):
    def ready() -> bool:
        return all((run.job().root / f"waiting-{rank}").exists() for rank in range(world))

    return ready


def test_usr2_checkpoints_all_ranks_and_the_requeued_job_resumes(make_run):
    run = make_run({"train": {"do": "checkpoint"}}, nodes=2)
    (handle,) = run.submit()
    run.wait(waiting(run, 2), what="both ranks at work")
    subprocess.run(["scancel", "--signal=USR2", handle.id], check=True)
    run.wait(lambda: run.state() == "succeeded", what="success after the requeue")
    assert len(run.job().attempts()) == 2
    for rank in range(2):
        assert (run.job().root / f"saved-{rank}").read_text() == "attempt 1 by SIGUSR2"
        assert "resumed from attempt 1" in run.job().attempt(2).stdout(rank).read_text()
    assert run.end(1)["exit"] == "requeued"
    assert run.end(2)["exit"] == "succeeded"
    assert run.executor.query([handle])[0].restarts == 1


def test_the_time_limit_sends_usr2_early_enough(make_run):
    """One minute is the shortest limit; the lead is half of it, and Slurm looks about twice a minute."""
    run = make_run({"train": {"do": "checkpoint"}}, time_s=60)
    run.submit()
    run.wait(lambda: run.state() == "succeeded", seconds=90, what="success after the time limit")
    assert run.end(1)["exit"] == "requeued"
    assert (run.job().root / "saved-0").read_text() == "attempt 1 by SIGUSR2"


def test_a_failed_rank_stops_the_others_and_its_error_is_the_one_shown(make_run):
    run = make_run({"train": {"do": "fail", "rank": 2}}, nodes=2, tasks_per_node=2)
    run.submit()
    run.wait(lambda: run.state() == "failed", what="failure")
    end = run.end(1)
    assert (end["exit"], end["rank"]) == ("failed", 2)
    assert end["evidence"][-1] == "RuntimeError: the stand-in broke"
    run.wait_until_over(seconds=20)
    assert run.executor.query(run.handles)[0].state == "FAILED"


def test_cancel_ends_job_and_chain_and_says_so(make_run, queue):
    run = make_run({"train": {"do": "hang"}})
    (handle,) = run.submit()
    run.wait(waiting(run), what="the job at work")
    run.executor.cancel(run.paths, [handle])
    assert run.state() == "cancelled"
    run.wait_until_over()
    assert queue(run) == []
    assert run.executor.query([handle])[0].state == "CANCELLED"
    assert run.state() == "cancelled"
    assert len(run.job().attempts()) == 1


def test_requeue_tells_unknown_jobs_from_ended_ones_and_brings_none_back(make_run):
    run = make_run({"train": {"do": "hang"}})
    (handle,) = run.submit()
    run.wait(waiting(run), what="the job at work")
    run.executor.cancel(run.paths, [handle])
    with pytest.raises(slurm_client.Refused, match="not RUNNING"):
        slurm_client.requeue(handle.id)
    run.wait_until_over()
    with pytest.raises(slurm_client.Refused, match="CANCELLED"):
        slurm_client.requeue(handle.id)
    with pytest.raises(slurm_client.UnknownJob):
        slurm_client.requeue("99999999")
