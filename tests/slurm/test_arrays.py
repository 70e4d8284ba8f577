"""A sweep on real daemons: one array per job, each element a run of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import JOB, Run, profile

from latentctl.errors import UserError
from latentctl.launch import arrays
from latentctl.launch.protocol import Batch
from latentctl.record.journal import read

CHAIN = [JOB, replace(JOB, name="score", stages=["score"], after=["train"], role="eval")]


class Sweep:
    """Runs with one snapshot, submitted together."""

    def __init__(self, make_run: Callable[..., Run], behaves: list[dict], **profile_says: object) -> None:
        on = profile(**profile_says)
        self.runs = [make_run(b, jobs=CHAIN, on=on) for b in behaves]
        first = self.runs[0].paths
        for run in self.runs[1:]:
            subprocess.run(["rm", "-r", str(run.paths.code)], check=True)
            run.paths.code.symlink_to(first.code)
        self.folder = first.root.parent / "sweeps" / f"s-{first.id}"

    def submit(self, parallel: int | None = None) -> list[list[str]]:
        """Ids: one list for each run."""
        batch = Batch(self.folder.name, self.folder, parallel)
        handles = self.runs[0].executor.submit_all([(r.paths, r.plan) for r in self.runs], batch)
        for run in self.runs:
            events = [e for e in read(run.paths.journal) if e["event"] == "submitted"]
            ids = {e["id"] for e in events}
            run.handles = [h for h in handles if h.id in ids]
        return [[h.id for h in run.handles] for run in self.runs]

    def wait(self, seconds: float = 60) -> None:
        for run in self.runs:
            run.wait_until_over(seconds)


def meet_then(*words: str) -> list[dict]:
    return [{"train": {"do": word, "rank": 0}, "score": {"do": "meet"}} for word in words]


def test_an_array_for_each_job_and_a_point_that_fails_stops_no_other(make_run) -> None:
    sweep = Sweep(make_run, meet_then("meet", "fail", "meet"))
    ids = sweep.submit()
    bases = [[i.split("_")[0] for i in one] for one in ids]
    assert bases[0] == bases[1] == bases[2]
    assert [[i.split("_")[1] for i in one] for one in ids] == [["0", "0"], ["1", "1"], ["2", "2"]]
    sweep.wait()
    good, bad, other = sweep.runs
    for run in (good, other):
        assert [run.state(j) for j in ("train", "score")] == ["succeeded", "succeeded"]
    assert bad.state("train") == "failed"
    facts = bad.executor.query(bad.handles)
    assert facts[1].state == "CANCELLED"  # its parent failed
    assert not bad.job("score").attempts()
    logs = good.executor.scheduler_logs(good.paths, good.plan.job("train"))
    assert {p.name for p in logs} == {f"{ids[0][0]}_0_log.out", f"{ids[0][0]}_0_log.err"}
    assert "rank 0" in good.job("train").attempt(1).stderr(0).read_text()
    info = json.loads(good.job("train").attempt(1).info.read_text())
    assert info["id"] == ids[0][0]


def test_an_element_is_requeued_by_itself(make_run) -> None:
    sweep = Sweep(make_run, meet_then("checkpoint", "meet"))
    ids = sweep.submit()
    first = sweep.runs[0]
    first.wait(lambda: (first.job().root / "waiting-0").exists(), what="the first attempt")
    subprocess.run(["scancel", "--signal=USR2", ids[0][0]], check=True)
    sweep.wait(seconds=90)
    assert [first.end(n)["exit"] for n in (1, 2)] == ["requeued", "succeeded"]
    assert first.state("score") == "succeeded"
    assert len(sweep.runs[1].job().attempts()) == 1


def test_an_element_is_cancelled_by_itself(make_run) -> None:
    sweep = Sweep(make_run, meet_then("hang", "meet"))
    sweep.submit()
    first = sweep.runs[0]
    first.wait(lambda: (first.job().root / "waiting-0").exists(), what="the first attempt")
    first.executor.cancel(first.paths, first.handles)
    sweep.wait()
    assert first.state("train") == "cancelled"
    assert sweep.runs[1].state("score") == "succeeded"


def test_at_most_so_many_at_once(make_run) -> None:
    sweep = Sweep(make_run, meet_then("hang", "hang", "hang"))
    ids = sweep.submit(parallel=2)
    waiting = [r.job().root / "waiting-0" for r in sweep.runs]
    sweep.runs[0].wait(lambda: sum(p.exists() for p in waiting) == 2, what="two of them")
    rows = sweep.runs[0].executor.client.live([i for one in ids for i in one[:1]])
    assert sorted(r.state for r in rows.values()) == ["PENDING", "RUNNING", "RUNNING"]
    assert {r.reason for r in rows.values() if r.state == "PENDING"} == {"JobArrayTaskLimit"}


def test_more_points_than_an_array_may_have_are_several(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(make_run, meet_then("meet", "meet", "meet"))
    monkeypatch.setattr("latentctl.launch.slurm_client.SlurmClient.max_array_size", lambda self: 2)
    ids = sweep.submit()
    assert len({i.split("_")[0] for one in ids for i in one}) == 4  # two sets, two jobs each
    sweep.wait()
    assert {r.state("score") for r in sweep.runs} == {"succeeded"}


def test_the_clusters_own_limit_is_known(devbox, make_run) -> None:
    run = make_run({"train": {"do": "meet"}})
    assert run.executor.client.max_array_size() == 2001
    assert len(arrays.alike([(run.paths, run.plan)] * 5000, 2001)) == 3


def test_a_refusal_takes_back_what_was_accepted_before(make_run, queue) -> None:
    """The second job asks for more memory than any node has."""
    sweep = Sweep(make_run, meet_then("hang", "hang"))
    for run in sweep.runs:
        run.plan = replace(run.plan, jobs=[CHAIN[0], replace(CHAIN[1], mem_mb=999_000_000)])
    with pytest.raises(UserError, match="Slurm refused job 'score'") as caught:
        sweep.submit()
    assert caught.value.problems[0].key == "mem"
    listed = ["squeue", "-h", "-o", "%j"]  # elements that had begun are on their way out
    sweep.runs[0].wait(
        lambda: sweep.folder.name not in subprocess.run(listed, capture_output=True, text=True).stdout,
        what="the end of what was accepted",
    )
    for run in sweep.runs:  # one that had begun may have said so a moment later
        assert "cancelled" in run.events("train")


def test_only_what_is_left_is_submitted_again(make_run) -> None:
    sweep = Sweep(make_run, meet_then("meet", "fail", "fail"))
    sweep.submit()
    sweep.wait()
    for run in sweep.runs:
        (run.paths.root / "behave.json").write_text(json.dumps(meet_then("meet")[0]))
    again = Sweep.__new__(Sweep)
    again.runs, again.folder = sweep.runs[1:], sweep.folder
    again.submit()
    again.wait()
    assert {r.state("score") for r in sweep.runs} == {"succeeded"}
    assert [len(r.job().attempts()) for r in sweep.runs] == [1, 2, 2]


def test_lists_of_elements_stay(make_run) -> None:
    """A requeued element reads its run from the list again."""
    sweep = Sweep(make_run, meet_then("meet", "meet"))
    sweep.submit()
    (listed,) = (sweep.folder / "arrays").iterdir()
    assert [Path(line) for line in listed.read_text().splitlines()] == [r.paths.root for r in sweep.runs]
