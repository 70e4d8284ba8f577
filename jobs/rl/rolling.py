"""Where rollouts come from, whoever generates them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from torch import nn

from jobs.generate.protocol import Engine, Request, Sample
from jobs.rl.samples_file import Place, SampleWriter, missing, places
from jobs.rl.weights import InProcess


class Roller(Protocol):
    """One trainer process's view. `key` names a set of requests, each used once."""

    def push(self, model: nn.Module, version: int) -> None:
        """Bring the trainer's weights to where rollouts are generated. A collective of the trainers."""
        ...

    def ask(self, key: str, requests: Sequence[Request], version: int | None = None) -> None:
        """Begin this process's requests of a set, with the newest weights or with those of `version`, which
        were pushed or came with `load`."""
        ...

    def take(self, key: str) -> Iterator[Sample]:
        """Their samples as they come, each once. Raises `jobs.rl.rolling.Stopped` where it was told to stop
        before all had come; what came by then may be taken again from another attempt's `take`."""
        ...

    def done(self, key: str) -> None:
        """Nobody takes this set again."""
        ...

    def save(self, folder: Path, versions: Collection[int]) -> None:
        """Into a checkpoint: these weights, older than the checkpoint's own."""
        ...

    def load(self, folder: Path) -> None:
        """What `save` wrote can be asked of again."""
        ...


class Stopped(Exception):
    """Told to stop before all samples had come."""


class Colocated:
    """An engine in the trainer's own process. It generates when it is asked for samples, and never while the
    trainer trains: with `sleeps` it gives back its GPU's memory meanwhile.

    Samples go to files in `folder`, for an attempt after a kill: a whole set is not made again; `partial`:
    an unfinished one goes on, else it is made anew, in the same company.
    """

    def __init__(
        self, engine: Engine, folder: Path, *, rank: int = 0, sleeps: bool = False, partial: bool = False
    ) -> None:
        self.engine, self.folder, self.rank = engine, folder, rank
        self.sleeps, self.partial = sleeps, partial
        self._asleep = False
        self._into = InProcess(engine)
        self._version = 0
        self._open: dict[str, tuple[Place, list[Request]]] = {}
        self._left: set[str] = set()

    def push(self, model: nn.Module, version: int) -> None:
        self._wake()
        self._into.push(model, version)
        self._version = version

    def ask(self, key: str, requests: Sequence[Request], version: int | None = None) -> None:
        if version not in (None, self._version):
            raise RuntimeError(f"{key}: asked of version {version}, the engine has {self._version}")
        self._open[key] = Place(self.folder, key, self._version, self.rank), list(requests)
        self._left.add(key)

    def take(self, key: str) -> Iterator[Sample]:
        place, requests = self._open[key]
        for old in places(self.folder, f"{key}.v-*.rank-{self.rank:05d}.*"):
            if old != place or (not self.partial and missing(requests, old.read())):
                old.remove()
        there = place.read()
        left = missing(requests, there)
        again = {(r.id, r.index) for r in left}
        yield from (sample for sample in there if (sample.id, sample.index) not in again)
        yield from self._generate(place, left)
        self._left.discard(key)
        if self.sleeps and not self._left and not self._asleep:
            self.engine.sleep()
            self._asleep = True

    def done(self, key: str) -> None:
        self._open.pop(key)[0].remove()

    def save(self, folder: Path, versions: Collection[int]) -> None:
        if versions:
            raise RuntimeError(f"nothing is asked ahead here, and yet of versions {sorted(versions)}")

    def load(self, folder: Path) -> None: ...

    def _generate(self, place: Place, requests: list[Request]) -> Iterator[Sample]:
        if not requests:
            return
        self._wake()
        came = 0
        writer = SampleWriter(place.samples(0))
        try:
            for sample in self.engine.generate(requests):
                writer.add(sample)
                came += 1
                yield sample
        finally:
            writer.close()
        if came < len(requests):
            raise Stopped(f"{came} of {len(requests)} samples of {place.key} were there")

    def _wake(self) -> None:
        if self._asleep:
            self.engine.wake()
            self._asleep = False
