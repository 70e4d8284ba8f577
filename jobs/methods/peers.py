"""Processes of one attempt that tell one another how far they are, through files: no collective, no time
limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.methods.protocol import Preempted, World
from latentctl.record.atomic import read_json, write_json

_POLL_S = 0.2


class Peers:
    """`announce` writes `<folder>/attempt-<n>.rank-<r>.<word>.json`; the others see it."""

    def __init__(self, folder: Path, attempt: int, world: World) -> None:
        self.folder = folder
        self.attempt = attempt
        self.world = world

    def _path(self, rank: int, word: str) -> Path:
        return self.folder / f"attempt-{self.attempt}.rank-{rank:05d}.{word}.json"

    def announce(self, word: str, value: dict[str, Any]) -> None:
        write_json(self._path(self.world.rank, word), value)

    def any_said(self, word: str) -> bool:
        if self.world.size == 1:
            return False
        return next(self.folder.glob(f"attempt-{self.attempt}.rank-*.{word}.json"), None) is not None

    def read(self, word: str) -> list[dict[str, Any]]:
        """What each process announced, by rank."""
        return [read_json(self._path(rank, word)) for rank in range(self.world.size)]

    def ever(self, word: str) -> list[dict[str, Any]]:
        """What any process of this or an earlier attempt announced, oldest attempt first."""
        found = self.folder.glob(f"attempt-*.rank-*.{word}.json")
        return [read_json(path) for path in sorted(found, key=_age)]

    def wait_for(self, word: str, stopped: Callable[[], bool], *, only: int | None = None) -> None:
        """Until every process (or that one) has announced the word. Raises Preempted once `stopped()`."""
        ranks = range(self.world.size) if only is None else [only]
        while not all(self._path(rank, word).exists() for rank in ranks):
            if stopped():
                raise Preempted(f"while waiting for the other processes ({word})")
            time.sleep(_POLL_S)


def _age(path: Path) -> tuple[int, str]:
    attempt, rank, _ = path.name.split(".", 2)
    return int(attempt.removeprefix("attempt-")), rank
