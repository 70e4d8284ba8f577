"""Which weights an engine holds, and whether it may be asked now: the same rules for every engine."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TypeVar

from jobs.generate.protocol import Sample
from jobs.runtime.errors import JobUserError

T = TypeVar("T")


class Holding:
    """Mixed into an engine."""

    version: int = 0
    """Of the weights that it holds."""
    _asleep: bool = False
    _without: str | None = None
    """Why it holds no whole set of weights; None: it does."""
    _busy: int = 0
    """Calls whose answers are still being fetched."""

    def _answering(self, answers: Generator[T, None, None]) -> Generator[T, None, None]:
        """Pass `answers` on. Raises JobUserError while the engine sleeps or has no weights."""
        if self._asleep:
            raise JobUserError("the engine is asleep", hint="wake() it before it is asked")
        if self._without is not None:
            raise JobUserError(f"the engine has no weights: {self._without}", hint="load() whole ones")
        self._busy += 1
        try:
            with closing(answers):
                yield from answers
        finally:
            self._busy -= 1

    def _signed(self, samples: Generator[Sample, None, None]) -> Iterator[Sample]:
        """As `_answering`, each with the version that it was generated under."""
        with closing(self._answering(samples)) as answers:
            for sample in answers:
                yield replace(sample, version=self.version)

    def _may_load(self, version: int) -> None:
        """Raises JobUserError where new weights may not come now."""
        if version < self.version:
            raise JobUserError(f"weights of version {version} are older than those in use ({self.version})")
        if self._asleep:
            raise JobUserError("the engine is asleep", hint="wake() it before new weights come")
        self._must_be_idle("get new weights")

    @contextmanager
    def _replacing(self, version: int) -> Iterator[None]:
        """Around the replacement of all weights: what fails in here leaves none that could be used."""
        self._without = f"the loading of version {version} failed half-way"
        yield
        self.version, self._without = version, None

    def _must_be_idle(self, what: str) -> None:
        if self._busy:
            raise JobUserError(
                f"the engine cannot {what} while requests are under way",
                hint="fetch their samples to the end, or close the iterator",
            )

    def _fall_asleep(self, *, keep: bool) -> None:
        self._asleep = True
        if not keep:
            self._without = "they were given up when it was put to sleep"
