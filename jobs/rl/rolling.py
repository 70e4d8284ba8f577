"""Where rollouts come from, whoever generates them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import nn

from jobs.generate.protocol import Engine, Request, Sample
from jobs.rl.weights import InProcess


class Roller(Protocol):
    """One trainer process's view. `key` names a set of requests, each used once."""

    def push(self, model: nn.Module, version: int) -> None:
        """Bring the trainer's weights to where rollouts are generated. A collective of the trainers."""
        ...

    def ask(self, key: str, requests: Sequence[Request]) -> None:
        """Begin this process's requests of a set, with the newest weights."""
        ...

    def take(self, key: str) -> Iterator[Sample]:
        """Their samples as they come, each once. Raises `jobs.rl.rolling.Stopped` where it was told to stop
        before all had come; what came by then may be taken again from another attempt's `take`."""
        ...

    def done(self, key: str) -> None:
        """Nobody takes this set again."""
        ...


class Stopped(Exception):
    """Told to stop before all samples had come."""


class Colocated:
    """An engine in the trainer's own process. It generates when it is asked for samples, and never while the
    trainer trains: with `sleeps` it gives back its GPU's memory meanwhile."""

    def __init__(self, engine: Engine, *, sleeps: bool = False) -> None:
        self.engine, self.sleeps = engine, sleeps
        self._asleep = False
        self._into = InProcess(engine)
        self._asked: dict[str, list[Request]] = {}

    def push(self, model: nn.Module, version: int) -> None:
        self._wake()
        self._into.push(model, version)

    def ask(self, key: str, requests: Sequence[Request]) -> None:
        self._asked[key] = list(requests)

    def take(self, key: str) -> Iterator[Sample]:
        requests = self._asked.pop(key)
        came = 0
        self._wake()
        for sample in self.engine.generate(requests):
            came += 1
            yield sample
        if self.sleeps and not self._asked:
            self.engine.sleep()
            self._asleep = True
        if came < len(requests):
            raise Stopped(f"{came} of {len(requests)} samples of {key} were there")

    def done(self, key: str) -> None:
        pass

    def _wake(self) -> None:
        if self._asleep:
            self.engine.wake()
            self._asleep = False
