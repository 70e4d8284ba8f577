"""Weights through a shared folder, for an engine in another job.

    <folder>/v-000012/model-00001.safetensors ...
    <folder>/v-000012/COMMITTED          names and sizes of the files, written last

A version appears whole, by a rename. A reader takes the newest one and loads it at once; the newest `keep`
stay, so that it has the time of `keep - 1` pushes to do so, and where it was slower still it meets missing
files, not wrong ones, and takes the newest again.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from torch import nn

from jobs.generate import weight_files
from jobs.generate.protocol import Engine
from jobs.models.plain_export import replacing
from jobs.rl.weights import plain_stream, together
from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import fsync_dir, read_json, write_json

COMMITTED = "COMMITTED"
_NAME = re.compile(r"v-(\d{6,})")
_TRIES = 5
_PAUSE = 0.2  # seconds between them


class Committed(NamedTuple):
    """A whole version."""

    version: int
    folder: Path


class Folder:
    """The trainer's side: writes versions into `folder`, which is this trainer's alone. `main`: this process
    writes, the others help to gather."""

    def __init__(self, folder: Path, *, main: bool, keep: int = 2) -> None:
        if keep < 2:
            raise ValueError("a reader needs time: keep at least two versions")
        self.folder, self.main, self.keep = folder, main, keep

    def push(self, model: nn.Module, version: int) -> None:
        coming = plain_stream(model, keep=self.main)
        with together(coming):
            if self.main:
                self._check(version)
                name = f"v-{version:06d}"
                with replacing(self.folder / name) as part:
                    sizes = weight_files.write(part, coming)
                    write_json(part / COMMITTED, {"version": version, "files": sizes})
                fsync_dir(self.folder)
                self._prune()

    def _check(self, version: int) -> None:
        newest = max((c.version for c in committed(self.folder)), default=-1)
        if version <= newest:
            raise JobUserError(
                f"version {newest} is there already, and {version} is not newer",
                hint="give each attempt of a trainer a folder of its own",
                where=str(self.folder),
            )

    def _prune(self) -> None:
        """Old versions go, and what a trainer that was killed began to write. Out of sight first, so that
        nobody finds half a version."""
        for old in committed(self.folder)[: -self.keep]:
            gone = old.folder.with_name(f".{old.folder.name}.gone")
            with suppress(OSError):
                os.replace(old.folder, gone)
        for left in self.folder.glob(".v-*"):
            shutil.rmtree(left, ignore_errors=True)


class Follower:
    """The engine's side: keeps `engine` at the newest version of `folder`."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder

    def refresh(self) -> int | None:
        """Load the newest version where it is newer than the engine's; returns it, None where there is none.

        Raises JobUserError where it is not of this model (the old weights stay in use), and Unreadable where
        versions vanish faster than they can be read.
        """
        tries = 0
        while True:
            newest = next(reversed(committed(self.folder)), None)
            if newest is None or newest.version <= self.engine.version:
                return None
            try:
                self.engine.load(newest.folder, newest.version)
                return newest.version
            except weight_files.Unreadable:
                tries += 1
                if tries == _TRIES:
                    raise
                time.sleep(_PAUSE)

    def wait(
        self,
        version: int,
        *,
        timeout: float,
        every: float = 0.5,
        alive: Callable[[], None] = lambda: None,
    ) -> int:
        """Until the engine has `version` or a newer one: which it has. `alive` is called in between and may
        raise, for a trainer that will never push again. Raises JobUserError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            self.refresh()
            if self.engine.version >= version:
                return self.engine.version
            alive()
            if time.monotonic() >= end:
                raise JobUserError(
                    f"weights of version {version} did not come within {timeout:g} s "
                    f"(the engine has {self.engine.version})",
                    hint="does the trainer still run, and does it write here?",
                    where=str(self.folder),
                )
            time.sleep(every)


def committed(folder: Path) -> list[Committed]:
    """Whole versions, oldest first. What is half there, on its way or going is passed over."""
    found = []
    with suppress(OSError):
        for path in folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and _whole(path):
                found.append(Committed(int(match[1]), path))
    return sorted(found)


def _whole(path: Path) -> bool:
    try:
        sizes = read_json(path / COMMITTED)["files"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
