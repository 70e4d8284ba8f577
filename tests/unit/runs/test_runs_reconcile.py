"""States follow from evidence; where it disagrees or is missing, the answer is unknown."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest

from latentctl.launch.protocol import Fact, Handle
from latentctl.record.states import TERMINAL, JobState
from latentctl.runs.reconcile import Evidence, answer, judge


def fact(state: str | None, reason: str | None = None, source: str = "squeue") -> Fact:
    return Fact(Handle("slurm", "7", "a"), state, reason, source=source)


def state(journal: JobState, said: Fact | None = None, **more: Any) -> str:
    return judge(
        Evidence(journal=journal, attempt=more.pop("attempt", 1), submitted=True, fact=said, **more)
    ).state


def why(journal: JobState, said: Fact | None = None, **more: Any) -> str:
    return judge(Evidence(journal=journal, attempt=1, submitted=True, fact=said, **more)).why or ""


def test_a_result_of_the_current_attempt_is_success_whatever_the_journal_still_says() -> None:
    for journal in ("running", "cancelled", "lost", "succeeded"):
        assert state(journal, result_attempt=1) == "succeeded"


def test_a_result_of_an_older_attempt_is_none() -> None:
    assert state("running", fact("RUNNING"), attempt=2, result_attempt=1) == "running"
    assert state("succeeded", attempt=2, result_attempt=1) == "unknown"
    assert state("submitted", attempt=2, result_attempt=1) == "succeeded"  # no later one has started


def test_success_without_a_result_is_unknown() -> None:
    assert state("succeeded") == "unknown"
    assert "no result.json" in why("succeeded")


def test_a_result_of_a_failed_attempt_is_unknown() -> None:
    assert state("failed", result_attempt=1) == "unknown"


def test_the_scheduler_alone_never_makes_a_success() -> None:
    assert state("running", fact("COMPLETED", source="sacct")) == "unknown"
    for journal, word in product(
        ("submitted", "pending", "running"), ("COMPLETED", "COMPLETED ", "COMPLETED+")
    ):
        assert state(journal, fact(word)) == "unknown"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("CANCELLED", "cancelled"),
        ("CANCELLED by 1000", "cancelled"),
        ("CANCELLED+", "cancelled"),
        ("TIMEOUT", "failed"),
        ("FAILED", "failed"),
        ("OUT_OF_MEMORY", "failed"),
        ("NODE_FAIL", "lost"),
        ("PREEMPTED", "lost"),
        ("PENDING", "pending"),
        ("REQUEUED", "pending"),
        ("RUNNING", "running"),
        ("COMPLETING", "running"),
        ("SOMETHING_NEW", "unknown"),
    ],
)
def test_what_slurm_says_of_a_job_that_could_not_say_it_itself(word: str, expected: str) -> None:
    assert state("running", fact(word)) == expected


def test_a_told_end_stands_against_a_scheduler_that_is_late() -> None:
    assert state("failed", fact("RUNNING")) == "failed"
    assert state("cancelled", fact("COMPLETING")) == "cancelled"
    assert state("cancelled", fact("PENDING")) == "cancelled"


def test_a_failed_job_that_somebody_requeued_is_pending() -> None:
    assert state("failed", fact("PENDING")) == "pending"


def test_pending_tells_why() -> None:
    assert why("submitted", fact("PENDING", "Resources")) == "Resources"
    assert why("submitted", fact("PENDING", "Dependency"), parents={"sft": "running"}) == "waits for sft"


def test_a_child_cancelled_by_slurm_for_its_parent_is_skipped() -> None:
    assert state("submitted", fact("CANCELLED"), parents={"sft": "failed"}) == "skipped"
    assert state("submitted", fact("CANCELLED"), parents={"sft": "succeeded"}) == "cancelled"


def test_a_silent_scheduler_leaves_only_signs_of_life() -> None:
    assert state("running", unanswered="timeout", heartbeat_age=3.0) == "running"
    assert state("running", unanswered="timeout", heartbeat_age=4000.0) == "unknown"
    assert state("running", unanswered="timeout") == "unknown"
    assert state("submitted", unanswered="timeout") == "submitted"
    assert "timeout" in why("submitted", unanswered="timeout")


def test_a_job_that_slurm_forgot_is_unknown_not_done() -> None:
    assert state("running", fact(None, "not in squeue or sacct")) == "unknown"
    assert state("submitted", fact(None)) == "unknown"


def test_a_supervisor_that_is_gone_leaves_lost_jobs() -> None:
    gone = fact("gone", "its supervisor (pid 5) has ended", "supervisor")
    assert state("running", gone) == "lost"
    assert state("submitted", gone) == "lost"
    assert state("running", gone, worker_alive=True) == "unknown"
    assert state("running", gone, worker_alive=False) == "lost"
    assert state("failed", gone) == "failed"
    assert state("running", gone, result_attempt=1) == "succeeded"


def test_a_living_supervisor_has_started_only_what_the_journal_says() -> None:
    alive = fact("alive", source="supervisor")
    assert state("running", alive) == "running"
    assert state("submitted", alive, parents={"sft": "running"}) == "pending"


def test_what_was_never_submitted_is_planned() -> None:
    assert judge(Evidence(journal="planned", attempt=0, submitted=False)).state == "planned"


def test_no_evidence_at_all_brings_success_or_revives_the_dead() -> None:
    """Over every journal state, scheduler word and liveness: success needs a result, an end stays an end."""
    words = [
        None,
        "alive",
        "gone",
        "PENDING",
        "RUNNING",
        "COMPLETED",
        "CANCELLED",
        "FAILED",
        "NODE_FAIL",
        "X",
    ]
    for journal, word, age, alive in product(
        get_args(JobState), words, (None, 1.0, 9e9), (None, True, False)
    ):
        if journal == "unknown":  # never written
            continue
        said = None if word is None else fact(word)
        found = state(journal, said, heartbeat_age=age, worker_alive=alive)
        assert found != "succeeded"
        if journal in TERMINAL and word != "PENDING":
            assert found == ("unknown" if journal == "succeeded" else journal)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["succeeded", "succeeded"], 0),
        (["succeeded", "running"], 8),
        (["failed", "pending"], 8),
        (["failed", "succeeded"], 1),
        (["unknown"], 1),
        ([], 0),
    ],
)
def test_the_exit_code_of_status(states: list, code: int) -> None:
    assert answer(states) == code
