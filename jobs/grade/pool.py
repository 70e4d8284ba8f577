"""Grading many items: graders that may hang or crash run in processes of their own (`jobs.grade.workers`).

A verdict that could not be had is an error, never a wrong answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from jobs.grade.extract import shorten
from jobs.grade.protocol import Answered, Grader, Verdict
from jobs.grade.registry import get
from jobs.grade.workers import FAILED, Workers, failure

REMEMBERED = 100_000
"""Verdicts that are kept at most, the oldest forgotten first."""


class Pool:
    """Grades many items with one grader. Use it as a context; verdicts are kept by what the grader was
    shown."""

    def __init__(
        self, grader: str, *, timeout: float = 10.0, workers: int | None = None, plugins: Sequence[str] = ()
    ) -> None:
        self.grader: Grader = get(grader, plugins)
        self._workers = Workers("grader", grader, timeout=timeout, workers=workers, plugins=plugins)
        self._known: dict[bytes, Verdict] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._workers.close()

    @property
    def restarts(self) -> int:
        """Processes that had to be replaced."""
        return self._workers.restarts

    def grade(self, items: Iterable[Answered]) -> Iterator[Verdict]:
        """Verdicts in the order of the items."""
        if not getattr(self.grader, "pooled", True):
            yield from (_tried(self.grader, item) for item in items)
            return
        found: list[Verdict | bytes] = []
        todo: dict[bytes, Answered] = {}
        for item in items:
            shown = _prepared(self.grader, item)
            if isinstance(shown, Verdict):
                found.append(shown)
                continue
            key = _key(shown)
            found.append(key)
            if key not in self._known:
                todo[key] = shown
        answers = self._workers.run([asdict(one) for one in todo.values()])
        self._known.update((k, _verdict(a)) for k, a in zip(todo, answers, strict=True))
        verdicts = [one if isinstance(one, Verdict) else self._known[one] for one in found]
        for key in list(self._known)[: max(0, len(self._known) - REMEMBERED)]:
            del self._known[key]
        yield from verdicts


def _tried(grader: Grader, item: Answered) -> Verdict:
    """Somebody's own grader may raise; that must not end an evaluation or a training."""
    try:
        verdict = grader.grade(item)
    except Exception as error:
        return Verdict("error", None, f"the grader failed: {failure(error)}")
    if not isinstance(verdict, Verdict):
        return Verdict("error", None, f"the grader returned {shorten(repr(verdict), 60)}, not a Verdict")
    return verdict


def _prepared(grader: Grader, item: Answered) -> Answered | Verdict:
    prepare = getattr(grader, "prepare", None)
    try:
        return prepare(item) if prepare else item
    except Exception as error:
        return Verdict("error", None, f"the grader failed: {failure(error)}")


def _key(item: Answered) -> bytes:
    """Of what the grader is shown: equal for equal items."""
    shown = json.dumps(asdict(item), sort_keys=True, default=str)
    return hashlib.blake2b(shown.encode(), digest_size=16).digest()


def _verdict(answer: dict[str, str]) -> Verdict:
    if FAILED in answer:
        return Verdict("error", None, answer[FAILED])
    return Verdict(**answer)  # pyright: ignore[reportArgumentType]
