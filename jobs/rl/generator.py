"""The process that generates for those that train: the other side of `jobs.rl.apart`."""

from __future__ import annotations

import pickle
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from jobs.generate.protocol import Engine, Request
from jobs.rl.apart import POLL_S, Asked, weights
from jobs.rl.folder import committed
from jobs.rl.samples_file import Place, SampleWriter, missing, places
from jobs.runtime.errors import JobUserError

_PATIENCE_S = 600.0


class Generator:
    """Serves whole sets, of the oldest policy first, once all `trainers` have asked: the requests of all go
    through the engine together. Of several generators each takes every n-th problem.

    `over`: the trainers are done; `stop`: this process is to stop. `engine` starts with version 0.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        *,
        attempt: int,
        number: int,
        generators: int,
        trainers: int,
        over: Callable[[], bool],
        stop: Callable[[], bool],
    ) -> None:
        self.engine, self.folder, self.attempt = engine, folder, attempt
        self.number, self.generators, self.trainers = number, generators, trainers
        self.over, self.stop = over, stop
        self._known: dict[Path, tuple[int, Asked]] = {}
        """Asked files that were read, with their time."""
        self._served: set[tuple[str, int]] = set()

    def run(self) -> bool:
        """False where it was told to stop. Raises JobUserError where a policy does not come."""
        while not self.stop():
            ready = self._next()
            if ready is not None:
                self._serve(ready)
            elif self.over():
                return True
            else:
                time.sleep(POLL_S)
        return False

    def _next(self) -> list[Place] | None:
        """The places of the next set."""
        sets: dict[tuple[int, str], list[Place]] = defaultdict(list)
        for place in places(self.folder, "*.asked"):
            asked = self._asked(place)
            if asked is not None and asked.attempt == self.attempt:
                sets[place.version, place.key].append(place)
        self._served &= {(key, version) for version, key in sets}
        for (version, key), found in sets.items():
            if len(found) == self.trainers and (key, version) not in self._served:
                return found
        return None

    def _asked(self, place: Place) -> Asked | None:
        """None: it is gone."""
        try:
            when = place.asked.stat().st_mtime_ns
            held = self._known.get(place.asked)
            if held is None or held[0] != when:
                held = self._known[place.asked] = when, pickle.loads(place.asked.read_bytes())
            return held[1]
        except FileNotFoundError:
            self._known.pop(place.asked, None)
            return None

    def _mine(self, found: list[Place]) -> dict[Place, list[Request]]:
        """What this generator makes of a set: whole problems, whose prompt is read once then."""
        every = {place: asked.requests for place in found if (asked := self._asked(place)) is not None}
        names = list(dict.fromkeys(r.id for requests in every.values() for r in requests))
        own = set(names[self.number :: self.generators])
        return {place: [r for r in requests if r.id in own] for place, requests in every.items()}

    def _serve(self, found: list[Place]) -> None:
        version, key = found[0].version, found[0].key
        writers: dict[tuple[str, int], SampleWriter] = {}
        opened, left = [], []
        lacking = {place: missing(asked, place.read()) for place, asked in self._mine(found).items()}
        if any(lacking.values()) and not self._follow(found[0]):  # else an earlier attempt made all
            return
        for place, requests in lacking.items():
            if requests:
                writer = SampleWriter(place.samples(self.number))
                opened.append(writer)
                writers |= {(r.id, r.index): writer for r in requests}
                left += requests
        came = 0
        try:
            if left:
                for sample in self.engine.generate(left):
                    writers[sample.id, sample.index].add(sample)
                    came += 1
        finally:
            for writer in opened:
                writer.close()
        if came == len(left):
            self._served.add((key, version))

    def _follow(self, place: Place) -> bool:
        """Bring the engine to exactly this version. False: it was told to stop, or nobody asks any more."""
        end = time.monotonic() + _PATIENCE_S
        while self.engine.version != place.version:
            held = {c.version: c.folder for c in committed(weights(self.folder, self.attempt))}
            if place.version in held:
                self.engine.load(held[place.version], place.version)
                break
            if self.stop() or not place.asked.exists():
                return False
            if time.monotonic() > end:
                raise JobUserError(
                    f"the policy after {place.version} steps did not come within {_PATIENCE_S:g} s "
                    f"(the engine has that after {self.engine.version})",
                    hint="does the trainer still run, and is there room on the disk?",
                    where=str(self.folder),
                )
            time.sleep(POLL_S)
        return True
