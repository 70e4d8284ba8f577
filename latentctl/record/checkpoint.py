"""Committed checkpoints, read: which are whole, and which is the newest. `jobs.runtime.checkpoints` writes.

`COMMITTED` in a checkpoint's folder is written last and lists its files with their sizes: a folder without
it, or whose files are not those, is no checkpoint.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentctl.record.atomic import fsync_dir, read_json, try_read_json
from latentctl.record.paths import COMMITTED, JobPaths, StagePaths

_NAME = re.compile(r"step-(\d+)(?:\.(tmp|old)-(\d+))?")


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint."""

    step: int
    path: Path
    attempt: int
    spec_hash: str
    time: str
    extra: dict[str, Any]
    """What the method told `commit`: JSON."""
    seconds: float = 0.0
    """How long it took to write."""

    @property
    def model(self) -> Path:
        """Where a method puts an exported Hugging Face directory, so that `from: stage@STEP` finds it."""
        return self.path / "model"


class Damaged(Exception):
    """Not a whole checkpoint of this spec; says why."""


def latest(stage: StagePaths, spec_hash: str) -> Checkpoint | None:
    """The newest whole checkpoint of this spec, or None. Damaged ones are noted on stderr."""
    for step, path in reversed(candidates(stage)):
        try:
            return load(path, spec_hash)
        except Damaged as exc:
            print(f"checkpoint of step {step} is passed over: {exc}", file=sys.stderr, flush=True)
    return None


def load(path: Path, spec_hash: str | None = None) -> Checkpoint:
    """The checkpoint in a folder, checked against its own list of files. Raises Damaged."""
    try:
        marker = read_json(path / COMMITTED)
        files: dict[str, int] = marker["files"]
        found = from_marker(path, marker)
    except FileNotFoundError:
        raise Damaged(f"{path}: never committed") from None
    except (ValueError, KeyError, TypeError) as exc:
        raise Damaged(f"{path / COMMITTED} cannot be read: {exc}") from None
    if spec_hash is not None and found.spec_hash != spec_hash:
        raise Damaged(f"{path}: written for another spec ({found.spec_hash[:8]}, this is {spec_hash[:8]})")
    for name, size in files.items():
        try:
            is_size = (path / name).stat().st_size
        except OSError:
            raise Damaged(f"{path}: {name} is missing") from None
        if is_size != size:
            raise Damaged(f"{path}: {name} has {is_size} bytes of {size}")
    return found


def whole(stage: StagePaths) -> list[Checkpoint]:
    """The checkpoints with all their files, oldest first."""
    found = []
    for _, path in candidates(stage):
        with contextlib.suppress(Damaged):
            found.append(load(path))
    return found


def longest(job: JobPaths) -> float:
    """Seconds that the slowest of the job's checkpoints took to write, 0 before the first."""
    folders = (path for stage in job.stages() for _, path in candidates(stage))
    markers = (try_read_json(path / COMMITTED) or {} for path in folders)
    return max((float(marker.get("seconds", 0.0)) for marker in markers), default=0.0)


def steps(stage: StagePaths) -> list[int]:
    """Steps of the whole checkpoints, oldest first."""
    return [found.step for found in whole(stage)]


def from_marker(path: Path, marker: dict[str, Any]) -> Checkpoint:
    """What `COMMITTED` says; its files are not looked at. Raises KeyError, TypeError, ValueError."""
    return Checkpoint(
        step=int(marker["step"]),
        path=path,
        attempt=int(marker["attempt"]),
        spec_hash=marker["spec_hash"],
        time=marker["time"],
        extra=marker["extra"],
        seconds=float(marker.get("seconds", 0.0)),
    )


def entries(stage: StagePaths) -> list[tuple[Path, re.Match[str]]]:
    """Every folder that is a checkpoint, becomes one, or stands aside.

    The groups: step, `tmp` or `old`, attempt."""
    if not stage.checkpoints.is_dir():
        return []
    return [(p, m) for p in stage.checkpoints.iterdir() if (m := _NAME.fullmatch(p.name)) and p.is_dir()]


def candidates(stage: StagePaths) -> list[tuple[int, Path]]:
    """(step, folder), oldest first; one that stood aside counts where its successor did not arrive."""
    found: dict[int, Path] = {}
    for path, match in entries(stage):
        step = int(match[1])
        if match[2] is None or (match[2] == "old" and step not in found):
            found[step] = path
    return sorted(found.items())


def remove(folder: Path) -> None:
    """Delete a checkpoint. The marker goes first: a half-removed checkpoint is none."""
    (folder / COMMITTED).unlink(missing_ok=True)
    fsync_dir(folder)
    shutil.rmtree(folder)
