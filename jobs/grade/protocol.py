"""What a grader takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Answered:
    """One generated answer with all that is needed to grade it, now or again."""

    text: str
    """What the model wrote, reasoning included."""
    gold: str
    meta: dict[str, Any] = field(default_factory=dict)
    markers: tuple[str, str] = ("<think>", "</think>")


@dataclass(frozen=True)
class Verdict:
    """`error` means that the grader itself failed (time-out, crash): flagged and counted apart, never
    simply wrong."""

    status: Literal["correct", "wrong", "error"]
    extracted: str | None
    """The answer as read out of the text; None if none was found."""
    reason: str
    """In words: "equal to the gold", "no \\boxed answer", "uses 7 twice", "timed out after 10 s"."""

    @property
    def correct(self) -> bool:
        return self.status == "correct"


class Grader(Protocol):
    """A grader may also have `prepare(item) -> Answered | Verdict`, called first and in this process:
    what the pool needs of the item, or the verdict where it is plain already."""

    name: str
    pooled: bool
    """Run in the pool of processes, which bounds its time and memory. Where it is unsaid, it is pooled."""

    def grade(self, item: Answered) -> Verdict:
        """Pure and quick, or run in the pool of `jobs.grade.pool`. Never raises for what a model may
        write."""
        ...
