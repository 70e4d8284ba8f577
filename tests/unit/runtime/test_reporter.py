"""Reports: what they say, and that they cannot stop the work."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.runtime import reporter as module
from jobs.runtime.reporter import Rate, Reporter, plain
from latentctl.record.journal import Journal, read
from latentctl.record.paths import JobPaths


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    return JobPaths(tmp_path / "jobs" / "main")


def reporter(job: JobPaths, clock: Clock | None = None, **kwargs: Any) -> Reporter:
    kwargs = {"stage": "sft", "attempt": 1, **kwargs}
    return Reporter(job, clock=clock or Clock(), **kwargs)


def rows(job: JobPaths) -> list[dict[str, Any]]:
    return [json.loads(line) for line in job.metrics.read_text().splitlines()]


def beat(job: JobPaths) -> dict[str, Any]:
    return json.loads(job.heartbeat.read_text())


def test_the_heartbeat_is_written_once_a_second_and_at_the_end(job):
    r = reporter(job, clock := Clock())
    r.progress(1, 100)
    assert beat(job)["step"] == 1
    clock.at += 0.4
    r.progress(2, 100)
    assert beat(job)["step"] == 1
    clock.at += 0.7
    r.progress(3, 100, loss=0.5)
    assert (beat(job)["step"], beat(job)["metrics"]) == (3, {"loss": 0.5})
    clock.at += 0.1
    r.progress(4, 100)
    assert beat(job)["step"] == 3
    r.close()
    assert beat(job)["step"] == 4
    r.progress(100, 100)
    assert beat(job)["step"] == 100
    assert (beat(job)["pid"], beat(job)["unit"], beat(job)["stage"]) == (os.getpid(), "step", "sft")


def test_only_rank_0_writes(job):
    r = reporter(job, main=False, journal=Journal(job.root / "journal"))
    r.progress(1, 1)
    r.log(1, loss=1.0)
    r.event("something")
    r.rewind(0)
    r.close()
    assert not job.root.exists()


def test_rate_is_that_of_the_usual_step_and_eta_counts_the_pauses_in():
    rate = Rate()
    at = 0.0
    rate.add(at, 0)
    at += 100  # compiling, filling caches: the first step says nothing about the others
    rate.add(at, 1)
    for step in range(2, 102):
        at += 2 + (10 if step % 10 == 0 else 0)  # every tenth is followed by a validation
        rate.add(at, step)
    assert rate.per_second() == pytest.approx(0.5)
    assert rate.eta(50) == pytest.approx(50 * 3, rel=0.02)


def test_rate_of_uneven_reports_is_weighted_by_what_was_done():
    rate = Rate()
    for at, step in [(0, 0), (1, 10), (2, 20), (2.001, 21), (3.0, 31), (4.0, 41)]:
        rate.add(at, step)
    assert rate.per_second() == pytest.approx(10, rel=0.02)


def test_rate_forgets_old_times():
    rate = Rate(window=16, recent=8)
    for step in range(100):
        rate.add(step * 10.0, step)
    for step in range(100, 140):
        rate.add(1000 + (step - 100) * 0.1, step)
    assert rate.per_second() == pytest.approx(10)
    assert rate.eta(10) == pytest.approx(1)


@pytest.mark.parametrize("steps", [[], [3], [3, 3], [3, 1]])
def test_rate_says_nothing_from_nothing(steps):
    rate = Rate()
    for i, step in enumerate(steps):
        rate.add(float(i), step)
    assert (rate.per_second(), rate.eta(5)) == (None, None)


def test_the_first_step_alone_tells_no_rate():
    """It holds the loading of the model; an estimate from it would frighten people."""
    rate = Rate()
    for at, step in [(0.0, 0), (90.0, 1)]:
        rate.add(at, step)
    assert (rate.per_second(), rate.eta(99)) == (None, None)
    rate.add(92.0, 2)
    assert (rate.per_second(), rate.eta(98)) == (0.5, 196)


def test_a_clock_that_stands_still_is_no_rate():
    rate = Rate()
    for step in range(5):
        rate.add(7.0, step)
    assert rate.per_second() is None
    assert rate.eta(3) == 0


def test_rows_are_whole_and_say_whose_they_are(job):
    r = reporter(job, attempt=3)
    r.log(1, loss=2.5, lr=1e-3, stage="not mine to say")
    (row,) = rows(job)
    assert (row["stage"], row["step"], row["attempt"], row["loss"], row["lr"]) == ("sft", 1, 3, 2.5, 1e-3)
    assert row["time"].endswith("+00:00")


class Scalar:
    """As numpy and torch have it."""

    def __init__(self, value: float) -> None:
        self.value = value

    def item(self) -> float:
        return self.value


def test_numbers_that_json_cannot_hold(job):
    reporter(job).log(1, loss=float("nan"), norm=Scalar(float("inf")), ok=Scalar(2.0), none=None)
    (row,) = rows(job)
    assert (row["loss"], row["norm"], row["ok"], row["none"]) == (None, None, 2.0, None)
    assert sorted(row["nonfinite"]) == ["loss", "norm"]
    assert plain({"a": [1, (2.5, float("-inf"))], 3: Path("x")}) == {"a": [1, [2.5, None]], "3": "x"}


def test_rewind_drops_this_stages_rows_beyond_a_step(job):
    one, two = reporter(job, stage="one"), reporter(job, stage="two")
    for step in (1, 2, 3):
        one.log(step, x=step)
    for step in (1, 2, 3, 4):
        two.log(step, x=step)
    with open(job.metrics, "a") as f:
        f.write('{"stage": "two", "st')  # torn by a kill
    reporter(job, stage="two", attempt=2).rewind(2)
    assert [(r["stage"], r["step"]) for r in rows(job)] == [
        ("one", 1), ("one", 2), ("one", 3), ("two", 1), ("two", 2),
    ]  # fmt: skip


def test_a_torn_line_does_not_swallow_the_next(job):
    r = reporter(job)
    r.log(1)
    with open(job.metrics, "a") as f:
        f.write('{"stage": "sf')
    r.log(2)
    lines = job.metrics.read_text().splitlines()
    assert [json.loads(lines[i])["step"] for i in (0, 2)] == [1, 2]


def test_events_go_to_the_journal_with_job_stage_and_attempt(job, tmp_path):
    reporter(job, journal=Journal(tmp_path / "journal"), attempt=2).event(
        "checkpoint", step=5, loss=float("nan")
    )
    (event,) = read(tmp_path / "journal")
    assert (event["event"], event["job"], event["stage"], event["attempt"]) == (
        "checkpoint",
        "main",
        "sft",
        2,
    )
    assert (event["step"], event["loss"]) == (5, None)


def test_a_full_disk_is_noted_once_and_the_work_goes_on(job, monkeypatch, capsys, tmp_path):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    r = reporter(job, clock := Clock(), journal=Journal(tmp_path / "journal"))
    r.log(1, loss=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        patch.setattr(module, "write_bytes", full)
        patch.setattr(os, "write", full)
        for step in range(2, 50):
            clock.at += 1
            r.progress(step, 100)
            r.log(step, loss=1.0)
            r.event("checkpoint", step=step)
            r.rewind(step)
        err = capsys.readouterr().err.splitlines()
    assert len(err) == 3  # heartbeat, metrics, journal
    assert all("No space left on device" in line and "the work goes on" in line for line in err)
    clock.at += 60
    r.progress(50, 100)
    r.log(50, loss=1.0)
    assert beat(job)["step"] == 50
    assert [row["step"] for row in rows(job)] == [1, 50]
    assert capsys.readouterr().err == ""


def test_what_cannot_be_said_does_not_stop_the_work(job, capsys):
    class Rude:
        def item(self) -> float:
            raise RuntimeError("no")

    r = reporter(job)
    r.log(1, loss=Rude())
    r.progress(1, 1, loss=Rude())
    assert not job.metrics.exists()
    assert "RuntimeError: no" in capsys.readouterr().err


def test_a_left_over_attempt_falls_silent(job, capsys):
    r = reporter(job, clock := Clock())
    r.progress(1, 10)
    job.attempt(2).root.mkdir(parents=True)
    clock.at += 2
    r.progress(2, 10)
    r.log(2, loss=1.0)
    r.close()
    assert beat(job)["step"] == 1
    assert not job.metrics.exists()
    assert "attempt 2 has started" in capsys.readouterr().err
