"""One problem, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """A problem with its gold answer.

    `id` is unique within the dataset and stable under slicing. `steps` is the reference reasoning, possibly
    empty. `answer` is the gold as a model should write it (empty where only a grader knows right from wrong);
    `meta` holds what a grader needs besides (countdown: `nums` and `target`; choice: `choices`; prosqa:
    `target` and `neg_target`). `variants` are other ways to write `steps`, by name (gsm8k: `formula` and
    `sentence`).
    """

    id: str
    question: str
    answer: str
    steps: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read."""

    file: str
    line: int | None
    reason: str


@dataclass(frozen=True)
class Rendered:
    """What a model sees of an example: text and token ids, and where the loss falls.

    `prompt_ids` + `target_ids` is the training row; the loss falls on `target_ids` alone (end-of-sequence
    included). Prompt and target are tokenised apart, so the border never merges.
    """

    id: str
    prompt: str
    target: str
    prompt_ids: list[int]
    target_ids: list[int]
