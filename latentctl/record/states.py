"""Job and run states, and how they follow from events: a maximum over (attempt, rank), never a clock."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

JobState = Literal[
    "planned",
    "submitted",
    "pending",
    "running",
    "succeeded",
    "failed",
    "cancelled",
    "lost",
    "skipped",
    "unknown",
]
"""`unknown` is what a view shows when the evidence disagrees or is missing; it is never written."""

AttemptEnd = Literal[
    "succeeded", "failed", "preempted", "timed_out", "node_failed", "requeued", "retried", "cancelled", "lost"
]
"""How one attempt ended. `preempted`, `timed_out`, `node_failed`, `requeued` and `retried` do not end the
job. `retried`: it failed, and the rules for failures start it again."""

EVENTS: dict[str, tuple[int, JobState]] = {
    "planned": (0, "planned"),
    "submitting": (1, "planned"),
    "submitted": (2, "submitted"),
    "pending": (3, "pending"),
    "started": (4, "running"),
    "requeued": (5, "pending"),
    "lost": (6, "lost"),
    "failed": (7, "failed"),
    "skipped": (7, "skipped"),
    "cancelled": (8, "cancelled"),
    "succeeded": (9, "succeeded"),
}
"""Event -> (rank within one attempt, the state it brings).

A later attempt outranks every event of an earlier one. Events before the first attempt (`planned` to
`submitted`) carry no attempt and count as attempt 0; a resubmission after a terminal state carries the
number of the attempt to come, so that it outranks the old end.
"""

TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "lost", "skipped"})
WORST: tuple[JobState, ...] = (
    "unknown", "failed", "lost", "cancelled", "skipped",
    "running", "pending", "submitted", "planned", "succeeded",
)  # fmt: skip
"""Worst first: the state of a run is that of its worst job."""


def fold(events: Iterable[dict[str, Any]], job: str) -> tuple[JobState, int, dict[str, Any] | None]:
    """State, attempt and deciding event of one job, independent of the order in which events are given."""
    best: tuple[int, int, str] = (0, -1, "")
    state: JobState = "planned"
    decided: dict[str, Any] | None = None
    for event in events:
        if event.get("job") != job or event["event"] not in EVENTS:
            continue
        rank, brings = EVENTS[event["event"]]
        key = (int(event.get("attempt") or 0), rank)
        if key >= best[:2]:
            # equals (a word said twice, failed and skipped) are told apart by their text, never by order
            full = (*key, json.dumps(event, sort_keys=True))
            if full > best:
                best, state, decided = full, brings, event
    return state, best[0], decided


def worst(states: Iterable[JobState]) -> JobState:
    """The state of a run from those of its jobs."""
    found = set(states)
    for state in WORST:
        if state in found:
            return state
    return "planned"
