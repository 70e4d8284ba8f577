"""Attempts are exclusive, found again by key, and fence what came before."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from latentctl.record.atomic import read_json, write_json
from latentctl.record.attempt import (
    StaleAttempt,
    claim,
    current,
    ensure_current,
    find,
    has_ended,
    lengths,
    upcoming,
)
from latentctl.record.journal import Journal
from latentctl.record.paths import JobPaths, RunPaths


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    return RunPaths(tmp_path / "run").job("a")


def test_numbers_count_up_and_a_key_finds_its_own(job: JobPaths) -> None:
    first = claim(job, "77:0", {"host": "node1"})
    assert first.number == 1
    assert claim(job, "77:0", {"host": "other"}) == first
    assert read_json(first.info)["host"] == "node1"
    second = claim(job, "77:1", {})
    assert second.number == 2
    assert find(job, "77:0") == first
    assert find(job, "77:1") == second
    assert find(job, "78:0") is None


def test_an_ended_attempt_is_not_joined_again(job: JobPaths) -> None:
    first = claim(job, "77:0", {})
    write_json(first.end, {"exit": "failed"})
    assert find(job, "77:0") is None
    assert has_ended(job, "77:0")
    assert claim(job, "77:0", {}).number == 2  # the scheduler's ids started again
    assert not has_ended(job, "77:0")


def test_an_attempt_that_died_while_it_was_made_is_passed_over(job: JobPaths) -> None:
    job.attempt(1).root.mkdir(parents=True)
    assert claim(job, "77:0", {}).number == 2


def test_claims_at_the_same_moment_get_different_numbers(job: JobPaths) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda i=i: numbers.append(claim(job, f"k{i}", {}).number)) for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 17))


def test_a_later_attempt_fences_the_earlier(job: JobPaths) -> None:
    claim(job, "77:0", {})
    ensure_current(job, 1)
    claim(job, "77:1", {})
    ensure_current(job, 2)
    with pytest.raises(StaleAttempt, match="attempt 1 of job a is over: attempt 2 has started"):
        ensure_current(job, 1)


def test_the_next_number_outranks_what_the_journal_has_ended(job: JobPaths) -> None:
    assert (current(job), upcoming(job)) == (0, 1)
    journal = Journal(job.root.parent.parent / "journal")
    journal.append("submitted", job="a", attempt=2)
    assert upcoming(job) == 2  # announced, not started
    journal.append("cancelled", job="a", attempt=2)
    assert upcoming(job) == 3
    assert claim(job, "77:0", {}).number == 3


def test_an_attempt_that_left_no_word_lasted_until_the_next() -> None:
    at = "2026-01-01T00:00:{:02d}+00:00".format
    marks = [(at(0), at(5)), (at(10), None), (None, None), (at(30), at(31)), (at(40), at(39))]
    assert lengths(marks) == [5, 20, None, 1, 0]
    (running,) = lengths([(at(0), None)])
    assert running is not None
    assert running > 86400
