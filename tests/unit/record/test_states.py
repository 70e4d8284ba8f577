"""States follow from events by rank and attempt alone."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from latentctl.record.states import EVENTS, TERMINAL, WORST, fold, worst

event = st.fixed_dictionaries(
    {
        "event": st.sampled_from([*EVENTS, "stage_started", "interrupted"]),
        "job": st.sampled_from(["a", "b"]),
        "attempt": st.none() | st.integers(0, 4),
        "message": st.sampled_from(["x", "y"]),
    }
)
history = st.lists(event, max_size=30)


@given(history, st.randoms(use_true_random=False))
def test_the_order_of_events_does_not_matter(events: list[dict[str, Any]], rng: random.Random) -> None:
    shuffled = list(events)
    rng.shuffle(shuffled)
    assert fold(shuffled, "a") == fold(events, "a")


@given(history, event)
def test_a_terminal_state_is_left_only_by_a_higher_attempt(
    events: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    before, attempt, _ = fold(events, "a")
    after, later, _ = fold([*events, more], "a")
    assert later >= attempt
    if before in TERMINAL and after not in TERMINAL:
        assert later > attempt


@given(history)
def test_success_of_the_last_attempt_stays(events: list[dict[str, Any]]) -> None:
    last = max((e["attempt"] or 0 for e in events if e["job"] == "a"), default=0)
    done = {"event": "succeeded", "job": "a", "attempt": last}
    assert fold([*events, done], "a")[0] == "succeeded"


@given(history)
def test_events_said_twice_change_nothing(events: list[dict[str, Any]]) -> None:
    assert fold(events + events, "a") == fold(events, "a")


@given(history)
def test_other_jobs_and_unknown_words_are_not_looked_at(events: list[dict[str, Any]]) -> None:
    own = [e for e in events if e["job"] == "a" and e["event"] in EVENTS]
    assert fold(own, "a") == fold(events, "a")


def test_a_requeue_is_pending_until_the_next_attempt_starts() -> None:
    rows: list[dict[str, Any]] = [
        {"event": "submitted", "job": "a"},
        {"event": "started", "job": "a", "attempt": 1},
        {"event": "requeued", "job": "a", "attempt": 1},
    ]
    assert fold(rows, "a")[:2] == ("pending", 1)
    assert fold([*rows, {"event": "started", "job": "a", "attempt": 2}], "a")[:2] == ("running", 2)


def test_the_worst_job_is_the_state_of_a_run() -> None:
    assert worst(["succeeded", "running"]) == "running"
    assert worst(["succeeded", "failed", "skipped"]) == "failed"
    assert worst(["succeeded", "succeeded"]) == "succeeded"
    assert worst([]) == "planned"
    assert set(WORST) >= {state for _, state in EVENTS.values()}
