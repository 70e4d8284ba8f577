"""Reports: what they say, and that they cannot stop the work."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from runs_for_tests import wait_for

from jobs.runtime import metrics
from jobs.runtime import reporter as module
from jobs.runtime.reporter import Reporter, plain
from latentctl.record.journal import Journal, read
from latentctl.record.paths import JobPaths


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    return JobPaths(tmp_path / "jobs" / "main")


def reporter(job: JobPaths, **kwargs: Any) -> Reporter:
    return Reporter(job, **{"stage": "sft", "attempt": 1, "every": 0.05, **kwargs})


def rows(job: JobPaths) -> list[dict[str, Any]]:
    return [json.loads(line) for line in job.metrics.read_text().splitlines()]


def beat(job: JobPaths) -> dict[str, Any]:
    return json.loads(job.heartbeat.read_text())


def test_the_heartbeat_comes_at_once_then_at_its_pace_and_at_the_end(job):
    r = reporter(job, every=0.5)
    r.progress(1, 100)
    wait_for(job.heartbeat.exists, timeout=0.4)
    begin = time.monotonic()
    for step in range(2, 50):
        r.progress(step, 100, loss=1 / step)
    assert beat(job)["step"] == 1
    wait_for(lambda: beat(job)["step"] == 49, timeout=5)
    assert time.monotonic() - begin > 0.3
    assert beat(job)["metrics"] == {"loss": 1 / 49}
    r.progress(100, 100)
    r.close()
    assert (beat(job)["step"], beat(job)["eta_s"]) == (100, 0)
    assert (beat(job)["pid"], beat(job)["unit"], beat(job)["stage"]) == (os.getpid(), "step", "sft")


def test_a_hanging_file_system_does_not_hold_the_work(job, monkeypatch, capsys):
    release = threading.Event()
    monkeypatch.setattr(module, "write_json", lambda *_, **__: release.wait(30))
    monkeypatch.setattr(module, "_CLOSE_S", 0.2)
    r, begin = reporter(job), time.monotonic()
    for step in range(1000):
        r.progress(step, 1000)
    assert time.monotonic() - begin < 2
    r.close()
    assert "still waits for its disk" in capsys.readouterr().err
    release.set()


def test_only_rank_0_writes(job):
    r = reporter(job, main=False, journal=Journal(job.root / "journal"))
    r.progress(1, 1)
    r.log(1, loss=1.0)
    r.event("something")
    r.rewind(0)
    r.close()
    assert not job.root.exists()


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
    reporter(job).log(1)
    with open(job.metrics, "a") as f:
        f.write('{"stage": "sf')  # by an attempt that was killed
    reporter(job, attempt=2).log(2)
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

    r = reporter(job, journal=Journal(tmp_path / "journal"))
    r.log(1, loss=1.0)
    r.progress(1, 100)
    wait_for(job.heartbeat.exists)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        patch.setattr(metrics, "write_bytes", full)
        patch.setattr(os, "write", full)
        for step in range(2, 50):
            r.progress(step, 100)
            r.log(step, loss=1.0)
            r.event("checkpoint", step=step)
            r.rewind(step)
        time.sleep(0.2)
        err = capsys.readouterr().err.splitlines()
    assert sorted(line.split()[0] for line in err) == ["heartbeat.json", "journal", "metrics.jsonl"]
    assert all("No space left on device" in line and "the work goes on" in line for line in err)
    r.progress(50, 100)
    r.log(50, loss=1.0)
    r.close()
    assert beat(job)["step"] == 50
    assert [row["step"] for row in rows(job)] == [1, 50]
    assert capsys.readouterr().err == ""


def test_a_row_that_was_cut_short_does_not_swallow_the_next(job, monkeypatch):
    r = reporter(job)
    r.log(1)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
        r.log(2)
    r.log(3)
    lines = job.metrics.read_text().splitlines()
    assert [json.loads(lines[i])["step"] for i in (0, 2)] == [1, 3]
    r.rewind(3)
    assert [row["step"] for row in rows(job)] == [1, 3]


def test_what_cannot_be_said_does_not_stop_the_work(job, capsys):
    class Rude:
        def item(self) -> float:
            raise RuntimeError("no")

    r = reporter(job)
    r.log(1, loss=Rude())
    r.progress(1, 1, loss=Rude())
    r.close()
    assert not job.metrics.exists()
    assert capsys.readouterr().err.count("RuntimeError: no") == 2


def test_a_left_over_attempt_falls_silent(job, capsys):
    r = reporter(job)
    r.progress(1, 10)
    wait_for(job.heartbeat.exists)
    job.attempt(2).root.mkdir(parents=True)
    r.progress(2, 10)
    wait_for(lambda: r._stale)
    r.log(2, loss=1.0)
    r.progress(3, 10)
    r.close()
    assert beat(job)["step"] == 1
    assert not job.metrics.exists()
    assert capsys.readouterr().err.count("attempt 2 has started") == 1
