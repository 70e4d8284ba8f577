"""Why jobs wait, asked of real daemons."""

from __future__ import annotations

from latentctl.launch.explaining import outlook
from latentctl.launch.observe import observe_one
from tests.slurm.conftest import NODES, profile


def of(run):
    view = observe_one(run.paths)
    (job,) = view.jobs
    return outlook(view, job)


def test_a_job_behind_others_says_when_it_is_expected_and_what_would_be_sooner(make_run):
    alone = profile(sbatch={"exclusive": True})
    first = make_run({"train": {"do": "hang"}}, nodes=NODES, time_s=3600, on=alone)
    first.submit()
    first.wait(lambda: first.state() == "running", what="the job that fills the cluster")
    second = make_run({"train": {"do": "meet"}}, nodes=NODES, time_s=3600, on=alone)
    second.submit()

    def known():
        seen = of(second)
        return seen if seen.reason in ("Resources", "Priority") and seen.start else None

    seen = second.wait(known, seconds=90, what="an expected start")
    assert "nodes are free" in seen.words or "higher priority" in seen.words
    assert seen.never is None
    assert seen.start[:2] == "20"
    for change in seen.changes:
        assert change.start < seen.start


def test_a_job_that_can_never_start_says_so(make_run):
    run = make_run({"train": {"do": "meet"}}, time_s=7200)
    run.submit()
    seen = run.wait(lambda: (o := of(run)).never and o, what="the reason")
    assert seen.reason in ("PartitionTimeLimit", "PartitionConfig")  # whichever check Slurm came to last
    assert "partition" in seen.never
    assert "up to 60 min" in seen.hint
    assert "scancel" in seen.hint
