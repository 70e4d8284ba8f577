"""How an attempt ended, from every mixture of what its ranks may leave behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentctl.launch import verdict
from latentctl.launch.verdict import End, RankExit
from latentctl.record.atomic import write_json
from latentctl.record.journal import Journal, read
from latentctl.record.paths import AttemptPaths, JobPaths, RunPaths


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    return RunPaths(tmp_path).job("a")


@pytest.fixture
def attempt(job: JobPaths) -> AttemptPaths:
    paths = job.attempt(2)
    paths.root.mkdir(parents=True)
    return paths


def rank(number: int, code: int | None = 0, stopped: str | None = None, *signals: str) -> RankExit:
    return RankExit(number, code, stopped, list(signals))


def judge(job: JobPaths, attempt: AttemptPaths, *exits: RankExit, size: int = 0, left: int = 5) -> End:
    found = {e.rank: e for e in exits}
    return verdict.judge(
        job, attempt, found, size=size or len(exits), no_more=None if left else "enough", lead=30
    )


def test_success_needs_the_result_of_this_attempt(job: JobPaths, attempt: AttemptPaths) -> None:
    assert judge(job, attempt, rank(0)).kind == "no_result"
    write_json(job.result, {"attempt": 1})
    assert judge(job, attempt, rank(0)).kind == "no_result"
    write_json(job.result, {"attempt": 2})
    assert judge(job, attempt, rank(0), rank(1)).exit == "succeeded"


def test_what_happens_after_the_result_does_not_matter(job: JobPaths, attempt: AttemptPaths) -> None:
    write_json(job.result, {"attempt": 2})
    verdict.write_failure(attempt, 1, -11)
    assert judge(job, attempt, rank(0), rank(1, -11)).exit == "succeeded"
    assert judge(job, attempt, rank(0, 85, None, "USR2"), size=2).exit == "succeeded"


@pytest.mark.parametrize(
    ("signals", "left", "expected"),
    [
        (("USR2",), 5, ("requeued", None)),
        ((), 5, ("requeued", None)),
        (("USR2", "TERM"), 5, ("requeued", None)),
        (("TERM",), 5, ("preempted", "preemption")),
        (("USR2",), 0, ("failed", "requeue_limit")),
    ],
)
def test_who_asked_decides_over_more_time(job, attempt, signals, left: int, expected) -> None:
    end = judge(job, attempt, rank(0, 85, None, *signals), rank(1, 85), left=left)
    assert (end.exit, end.kind) == expected


def test_a_checkpoint_that_came_too_late(job: JobPaths, attempt: AttemptPaths) -> None:
    limit = judge(job, attempt, rank(0, -9, "grace", "USR2"), rank(1, 85, None, "USR2"))
    assert (limit.exit, limit.kind, limit.event) == ("timed_out", "timeout", "failed")
    assert "within 30 s" in (limit.message or "")
    term = judge(job, attempt, rank(0, -9, "again", "TERM"))
    assert (term.exit, term.event) == ("preempted", "interrupted")


def test_a_rank_without_a_word(job: JobPaths, attempt: AttemptPaths) -> None:
    end = judge(job, attempt, rank(0), size=12)
    assert end.message == "rank 1, 2, 3, 4, 5, 6, 7, 8 and 3 more went away without a word"


def test_a_failure_file_that_could_not_be_written(job: JobPaths, attempt: AttemptPaths) -> None:
    assert judge(job, attempt, rank(0), rank(1, 9)).message == "the worker of rank 1 ended with exit code 9"


def failure(attempt: AttemptPaths, number: int, *, primary: bool, age: float) -> None:
    path = attempt.failure(number)
    write_json(path, {"class": "code", "message": f"m{number}", "rank": number, "primary": primary})
    os.utime(path, (1000 - age, 1000 - age))


def test_the_earliest_cause_is_shown(job: JobPaths, attempt: AttemptPaths) -> None:
    failure(attempt, 0, primary=False, age=9)
    failure(attempt, 1, primary=True, age=3)
    failure(attempt, 2, primary=True, age=5)
    end = judge(job, attempt, rank(0, 1), rank(1, 1), rank(2, 1))
    assert (end.message, end.rank) == ("m2", 2)


def test_where_all_look_like_consequences_the_first_is_shown(job: JobPaths, attempt: AttemptPaths) -> None:
    failure(attempt, 0, primary=False, age=3)
    failure(attempt, 1, primary=False, age=9)
    assert judge(job, attempt, rank(0, 1), rank(1, 1)).message == "m1"
    assert verdict.failed_elsewhere(attempt, 0) == "consequence"
    assert verdict.failed_elsewhere(attempt, 7) == "consequence"
    failure(attempt, 2, primary=True, age=1)
    assert verdict.failed_elsewhere(attempt, 0) == "cause"


def test_what_the_worker_wrote_about_itself_stays(attempt: AttemptPaths) -> None:
    failure(attempt, 0, primary=True, age=0)
    verdict.write_failure(attempt, 0, 1)
    assert (verdict.first_failure(attempt) or {})["message"] == "m0"


def test_the_tail_of_a_log_shows_what_a_terminal_would(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 9000 + b"\n 1%\r 50%\r100%\nwindows\r\n\nbroken \xff\n")
    assert verdict.tail(log)[-3:] == ["100%", "windows", "broken \ufffd"]
    assert verdict.tail(tmp_path / "absent") == []


def test_an_end_is_read_as_it_was_written(attempt: AttemptPaths, tmp_path: Path) -> None:
    end = verdict.failed("code", "broke", hint="mend it", evidence=["line"])
    end.save(attempt)
    assert End.load(attempt) == end
    end.announce(Journal(tmp_path / "journal"), "a", 2)
    (event,) = read(tmp_path / "journal")
    assert {k: event[k] for k in ("event", "job", "attempt", "class", "message", "hint", "evidence")} == {
        "event": "failed", "job": "a", "attempt": 2, "class": "code", "message": "broke", "hint": "mend it",
        "evidence": ["line"],
    }  # fmt: skip
