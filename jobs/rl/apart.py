"""Rollouts by processes of their own in the trainer's job: they meet through files in the stage's folder.

    weights-2/v-000012/                            attempt 2's policy after 12 steps (`jobs.rl.folder`)
    <key>.v-000012.rank-00000.asked                what a trainer process asks of that policy
    <key>.v-000012.rank-00000.from-00001.samples   what one generator made of it

This is the trainer's side; `jobs.rl.generator` is the other.
"""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from jobs.generate.protocol import Request, Sample
from jobs.models.plain_export import replacing
from jobs.rl.folder import Folder, committed
from jobs.rl.rolling import Stopped
from jobs.rl.samples_file import Place, SampleReader, missing, places
from latentctl.record.atomic import write_bytes

POLL_S = 0.1
_POLICIES = "policies"
_VERSIONS = 3  # of the weights, on disk: a set ahead, a validation, and the newest


class Asked(NamedTuple):
    """One trainer process's part of a set; generators of another attempt pass it over."""

    attempt: int
    requests: list[Request]


class Apart:
    """The trainer's side; see `jobs.rl.rolling.Roller`.

    A set that an earlier attempt's generators made of the very policy is taken where it is whole;
    `partial`: an unfinished one goes on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        attempt: int,
        rank: int,
        generators: int,
        partial: bool,
        stop: Callable[[], bool],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.attempt, self.rank = folder, attempt, rank
        self.generators, self.partial, self.stop = generators, partial, stop
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

    def ask(self, key: str, requests: Sequence[Request], version: int | None = None) -> None:
        requests = list(requests)
        place = Place(self.folder, key, self._version if version is None else version, self.rank)
        for old in places(self.folder, f"{key}.v-*.rank-{self.rank:05d}.*"):
            if old != place or (not self.partial and missing(requests, old.read())):
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

    def save(self, folder: Path, versions: Collection[int]) -> None:
        if self.rank == 0:
            _bring(weights(self.folder, self.attempt), folder / _POLICIES, set(versions) - {0})

    def load(self, folder: Path) -> None:
        if self.rank == 0:
            _bring(folder / _POLICIES, weights(self.folder, self.attempt))


def _bring(source: Path, target: Path, versions: Collection[int] | None = None) -> None:
    """Whole versions (unsaid: all) from one folder to another, without a copy of their bytes where they can
    share them."""
    for version, folder in committed(source):
        if versions is None or version in versions:
            with replacing(target / folder.name) as part:
                for file in folder.iterdir():
                    try:
                        os.link(file, part / file.name)
                    except OSError:
                        shutil.copyfile(file, part / file.name)


def weights(folder: Path, attempt: int) -> Path:
    return folder / f"weights-{attempt}"
