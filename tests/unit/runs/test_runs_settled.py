"""Finished runs are remembered, and never longer than they stay as they are."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from latentctl.record import ledger
from latentctl.record.atomic import write_json
from latentctl.record.journal import Journal, now
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.runs import view
from latentctl.runs.settled import Settled, SettledRuns, sign

JOBS = ("first", "second")


def make(
    root: Path, name: str = "tiny-00000001", *, executor: str = "local", end: str = "succeeded"
) -> RunPaths:
    """A run of two jobs, the second of which ends so; its journal has been quiet for an hour."""
    run = RunPaths(root / name)
    run.root.mkdir(parents=True)
    jobs = [JobPlan(n, [n], [], "train", 1, 1, 0, None, None, 3600, "python") for n in JOBS]
    Plan(run.id, "0" * 64, {"name": "here", "executor": executor}, jobs).save(run.plan)
    journal = Journal(run.journal)
    for job, how in zip(JOBS, ("succeeded", end), strict=True):
        ledger.submitted(journal, job, None, executor=executor, id="17")
        write_json(run.job(job).attempt(1).info, {"host": "elsewhere", "time": now()})
        journal.append("started", job=job, attempt=1)
        if how == "running":
            continue
        journal.append(how, job=job, attempt=1)
        if how == "succeeded":
            write_json(run.job(job).result, {"attempt": 1, "stages": {job: {"accuracy": 0.5}}})
    quiet(run)
    return run


def quiet(run: RunPaths, seconds: float = 3600) -> None:
    os.utime(run.journal, (time.time() - seconds,) * 2)


def remember(run: RunPaths) -> None:
    known = SettledRuns(run.root.parent)
    signed = sign(run)
    known.add(view.load(run), [run.id, "as it wäs\u2028\t"], signed)
    known.save()


def recall(run: RunPaths) -> Settled | None:
    return SettledRuns(run.root.parent).recall(run)


def test_a_finished_run_is_remembered_as_it_was_shown(tmp_path: Path) -> None:
    run = make(tmp_path)
    remember(run)
    found = recall(run)
    assert found is not None
    assert (found.state, found.states, found.row) == (
        "succeeded",
        ["succeeded"] * 2,
        [run.id, "as it wäs\u2028\t"],
    )
    assert found.dump() == view.load(run).dump()


def test_an_attempt_whose_result_is_there_has_succeeded_before_it_says_so(tmp_path: Path) -> None:
    """The result is the worker's, the end the entry's, which it writes a moment later."""
    run = make(tmp_path, end="running")
    first, second = view.load(run).jobs
    assert ([a.exit for a in first.attempts], first.state) == (["succeeded"], "succeeded")
    assert [a.exit for a in second.attempts] == [None]
    write_json(run.job("second").result, {"attempt": 1, "stages": {}})
    write_json(run.job("second").attempt(2).info, {"host": "elsewhere", "time": now()})
    assert [a.exit for a in view.load(run).jobs[1].attempts] == ["succeeded", None]


@pytest.mark.parametrize("end", ["running", "failed", "lost"])
def test_what_may_still_change_is_not_remembered(tmp_path: Path, end: str) -> None:
    run = make(tmp_path, executor="slurm", end=end)  # a failed job of Slurm can be queued again by hand
    remember(run)
    assert recall(run) is None


def test_a_run_that_was_written_to_just_now_is_not_remembered(tmp_path: Path) -> None:
    run = make(tmp_path)
    quiet(run, 5)
    remember(run)
    assert recall(run) is None


def test_a_failure_here_and_an_old_one_at_slurm_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make(tmp_path / "a", end="failed"), make(tmp_path / "b", executor="slurm", end="failed")
    monkeypatch.setattr(view, "_FORGOTTEN_S", 0.001)
    time.sleep(0.01)
    for run in (here, there):
        remember(run)
        found = recall(run)
        assert found is not None
        assert found.state == "failed"


def test_one_more_event_ends_it_even_by_a_process_that_wrote_before(tmp_path: Path) -> None:
    run = make(tmp_path)
    remember(run)
    assert recall(run) is not None
    Journal(run.journal).append("submitting", job="first", attempt=2)
    assert len(list(run.journal.iterdir())) == 1, "the same writer, the same file"
    assert recall(run) is None


def test_a_run_that_is_gone_is_forgotten_with_the_next_writing(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path, "tiny-00000002")
    remember(first)
    known = SettledRuns(tmp_path)
    known.add(view.load(second), [], sign(second))
    first.plan.unlink()
    known.save()
    assert first.id not in (tmp_path / ".settled").read_text()
    assert recall(first) is None


@pytest.mark.parametrize("damage", ["", "\n", "no json\n", "torn"])
def test_a_damaged_cache_is_no_cache(tmp_path: Path, damage: str) -> None:
    run = make(tmp_path)
    remember(run)
    cache = tmp_path / ".settled"
    whole = cache.read_text()
    cache.write_text(whole[: whole.index("\t") - 5] if damage == "torn" else damage)
    assert recall(run) is None
    remember(run)
    assert recall(run) is not None


def test_another_version_and_another_place_read_everything_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "runs")
    remember(run)
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert recall(RunPaths(tmp_path / "moved" / run.id)) is None
    (tmp_path / "moved").rename(tmp_path / "runs")
    assert recall(run) is not None
    monkeypatch.setattr("latentctl.runs.settled.__version__", "99")
    assert recall(run) is None


def test_a_folder_that_cannot_be_written_is_let_be(tmp_path: Path) -> None:
    run = make(tmp_path)
    (tmp_path / ".settled").mkdir()  # in the way, even of root
    remember(run)
    assert recall(run) is None
