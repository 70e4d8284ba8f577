"""What is to be expected of a job that waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Change:
    """Something that a person could ask for instead."""

    words: str
    start: str
    """When it would start then, in the cluster's own time."""


@dataclass(frozen=True)
class Outlook:
    """Of a job that waits."""

    words: str
    reason: str | None = None
    """The scheduler's own word."""
    never: str | None = None
    """Why it can never start as it is."""
    start: str | None = None
    """When the scheduler expects to start it."""
    changes: list[Change] = field(default_factory=list)
    hint: str | None = None

    def dump(self) -> dict[str, Any]:
        return {**vars(self), "changes": [vars(change) for change in self.changes]}
