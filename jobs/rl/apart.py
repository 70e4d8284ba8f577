"""Rollouts by processes of their own in the trainer's job: they meet through files in the stage's folder.

    weights-2/v-000012/                            attempt 2's policy after 12 steps (`jobs.rl.folder`)
    <key>.v-000012.rank-00000.asked                what a trainer process asks of that policy
    <key>.v-000012.rank-00000.from-00001.samples   what one generator made of it

This is the trainer's side; `jobs.rl.generator` is the other.
"""

from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from jobs.generate.protocol import Request, Sample
from jobs.rl.folder import Folder
from jobs.rl.rolling import Stopped
from jobs.rl.samples_file import Place, SampleReader, missing, places
from latentctl.record.atomic import write_bytes

POLL_S = 0.1
_VERSIONS = 3  # of the weights, on disk: a set ahead, a validation, and the newest


class Asked(NamedTuple):
    """One trainer process's part of a set; generators of another attempt pass it over."""

    attempt: int
    requests: list[Request]


class Apart:
    """The trainer's side; see `jobs.rl.rolling.Roller`.

    A set that an earlier attempt's generators made is taken where it is whole and its policy at most `stale`
    optimizer steps old; `partial`: an unfinished one of this very policy goes on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        attempt: int,
        rank: int,
        generators: int,
        stale: int,
        partial: bool,
        stop: Callable[[], bool],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.attempt, self.rank = folder, attempt, rank
        self.generators, self.stale, self.partial, self.stop = generators, stale, partial, stop
        self._version = 0
        self._open: dict[str, tuple[Place, list[Request]]] = {}
        if rank == 0:
            for old in folder.glob("weights-*"):
                if old != weights(folder, attempt):
                    shutil.rmtree(old, ignore_errors=True)
        self._weights = Folder(weights(folder, attempt), main=rank == 0, keep=_VERSIONS)

    def push(self, model: nn.Module, version: int) -> None:
        """Version 0 is what the stage starts from: every generator has it."""
        if version > 0:
            self._weights.push(model, version)
        self._version = version

    def ask(self, key: str, requests: Sequence[Request]) -> None:
        requests = list(requests)
        place = Place(self.folder, key, self._version, self.rank)
        for old in places(self.folder, f"{key}.v-*.rank-{self.rank:05d}.*"):
            age = self._version - old.version
            if 0 <= age <= self.stale and not missing(requests, old.read()):
                place = old
            elif age or not self.partial:
                old.remove()
        self._open[key] = place, requests
        write_bytes(place.asked, pickle.dumps(Asked(self.attempt, requests)))

    def take(self, key: str) -> Iterator[Sample]:
        place, requests = self._open[key]
        wanted = {(r.id, r.index) for r in requests}
        readers = [SampleReader(place.samples(g)) for g in range(self.generators)]
        while wanted:
            new = [sample for reader in readers for sample in reader.new()]
            for sample in new:
                if (sample.id, sample.index) in wanted:
                    wanted.discard((sample.id, sample.index))
                    yield sample
            if wanted and not new:
                if self.stop():
                    raise Stopped(f"{len(wanted)} of {len(requests)} samples of {key} were still to come")
                time.sleep(POLL_S)

    def done(self, key: str) -> None:
        place, _ = self._open.pop(key)
        place.remove()


def weights(folder: Path, attempt: int) -> Path:
    return folder / f"weights-{attempt}"
