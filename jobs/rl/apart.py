"""Rollouts by processes of their own in the trainer's job: they meet through files in the stage's folder.

    rollouts/weights-<attempt>/v-000012/         the policy after 12 steps (`jobs.rl.folder`)
    rollouts/<key>.rank-00000.asked              what a trainer process asks, and with which version
    rollouts/<key>.rank-00000.from-00001.part    samples of its requests that one generator made

Each generator takes every n-th request of each set. What is in a part is never made again, by any attempt:
draws are functions of the request and of the weights' version.
"""

from __future__ import annotations

import os
import pickle
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from jobs.generate.protocol import Engine, Request, Sample
from jobs.rl.folder import Folder, committed
from jobs.rl.parts_file import PartReader, PartWriter
from jobs.rl.rolling import Stopped
from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import write_bytes

_POLL_S = 0.1
_ASKED = re.compile(r"(?P<key>.+)\.rank-(?P<rank>\d{5})\.asked")


class Asked(NamedTuple):
    """One trainer process's part of a set."""

    version: int
    requests: list[Request]


class Apart:
    """The trainer's side; see `jobs.rl.rolling.Roller`."""

    def __init__(
        self,
        folder: Path,
        *,
        attempt: int,
        rank: int,
        generators: int,
        stop: Callable[[], bool],
        versions: int = 3,
    ) -> None:
        """`versions` of the weights stay on disk: as many as generators may still be asked for."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.rank, self.generators, self.stop = folder, rank, generators, stop
        self._weights = Folder(_weights(folder, attempt), main=rank == 0, keep=versions)
        self._version = 0
        self._asked: dict[str, list[Request]] = {}

    def push(self, model: nn.Module, version: int) -> None:
        """Version 0 is what the stage starts from: every generator has it."""
        if version > 0:
            self._weights.push(model, version)
        self._version = version

    def ask(self, key: str, requests: Sequence[Request]) -> None:
        self._asked[key] = list(requests)
        path = self.folder / f"{key}.rank-{self.rank:05d}.asked"
        if not path.exists():  # asked by an attempt before: what came of it holds
            write_bytes(path, pickle.dumps(Asked(self._version, list(requests))))

    def take(self, key: str) -> Iterator[Sample]:
        wanted = {(r.id, r.index) for r in self._asked.pop(key)}
        readers = [PartReader(p) for p in _parts(self.folder, key, self.rank, self.generators)]
        while wanted:
            new = [sample for reader in readers for sample in reader.new()]
            for sample in new:
                if (sample.id, sample.index) in wanted:
                    wanted.discard((sample.id, sample.index))
                    yield sample
            if wanted and not new:
                if self.stop():
                    raise Stopped(f"{len(wanted)} samples of {key} were still to come")
                time.sleep(_POLL_S)

    def done(self, key: str) -> None:
        (self.folder / f"{key}.rank-{self.rank:05d}.asked").unlink(missing_ok=True)
        for path in _parts(self.folder, key, self.rank, self.generators):
            path.unlink(missing_ok=True)


class Generator:
    """A process that generates until the trainers are done.

    `over`: they are; `stop`: this process is to stop. `version` 0 is what `engine` starts with.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        *,
        attempt: int,
        number: int,
        generators: int,
        over: Callable[[], bool],
        stop: Callable[[], bool],
        patience: float = 600.0,
    ) -> None:
        self.engine, self.folder, self.attempt = engine, folder, attempt
        self.number, self.generators = number, generators
        self.over, self.stop, self.patience = over, stop, patience
        self.tokens = 0
        self.seconds = 0.0

    def run(self) -> bool:
        """Serve sets in the order in which they were asked. False where it was told to stop."""
        while not self.stop():
            work = self._next()
            if work is not None:
                self._serve(*work)
            elif self.over():
                return True
            else:
                time.sleep(_POLL_S)
        return False

    def _next(self) -> tuple[Path, str, int, Asked] | None:
        """The oldest version's set of which some of this generator's samples are missing."""
        found = []
        for path in sorted(self.folder.glob("*.asked")):
            match = _ASKED.fullmatch(path.name)
            try:
                asked: Asked = pickle.loads(path.read_bytes())
            except (FileNotFoundError, EOFError):
                continue
            if match and self._missing(match["key"], int(match["rank"]), asked):
                found.append((asked.version, path, match["key"], int(match["rank"]), asked))
        if not found:
            return None
        _, path, key, rank, asked = min(found, key=lambda f: (f[0], f[2], f[3]))
        return path, key, rank, asked

    def _mine(self, asked: Asked) -> list[Request]:
        """Whole problems where there are several samples of each: a prompt is read once."""
        names = list(dict.fromkeys(r.id for r in asked.requests))
        own = set(names[self.number :: self.generators])
        return [r for r in asked.requests if r.id in own]

    def _missing(self, key: str, rank: int, asked: Asked) -> list[Request]:
        path = _part(self.folder, key, rank, self.number)
        there = {(s.id, s.index) for s in PartReader(path).new()}
        return [r for r in self._mine(asked) if (r.id, r.index) not in there]

    def _serve(self, path: Path, key: str, rank: int, asked: Asked) -> None:
        missing = self._missing(key, rank, asked)
        self._follow(asked.version)
        writer = PartWriter(_part(self.folder, key, rank, self.number))
        begin = time.monotonic()
        try:
            for sample in self.engine.generate(missing):
                if not path.exists():  # nobody waits for it any more
                    break
                writer.add(sample)
                self.tokens += len(sample.ids) + sample.latents
        finally:
            writer.close()
            self.seconds += time.monotonic() - begin
        if not path.exists():
            os.unlink(_part(self.folder, key, rank, self.number))

    def _follow(self, version: int) -> None:
        """Bring the engine to exactly this version. Raises JobUserError where it is nowhere."""
        end = time.monotonic() + self.patience
        while self.engine.version != version:
            for attempt in range(self.attempt, 0, -1):
                held = {c.version: c.folder for c in committed(_weights(self.folder, attempt))}
                if version in held:
                    self.engine.load(held[version], version)
                    break
            else:
                if self.stop():
                    return
                if time.monotonic() > end:
                    raise JobUserError(
                        f"weights of version {version} did not come within {self.patience:g} s "
                        f"(the engine has {self.engine.version})",
                        hint="does the trainer still run, and is the disk full?",
                        where=str(self.folder),
                    )
                time.sleep(_POLL_S)


def _weights(folder: Path, attempt: int) -> Path:
    return folder / f"weights-{attempt}"


def _part(folder: Path, key: str, rank: int, generator: int) -> Path:
    return folder / f"{key}.rank-{rank:05d}.from-{generator:05d}.part"


def _parts(folder: Path, key: str, rank: int, generators: int) -> list[Path]:
    return [_part(folder, key, rank, g) for g in range(generators)]
