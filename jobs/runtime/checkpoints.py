"""Checkpoints that exist whole or not at all. Free of torch.

A checkpoint is filled in `step-000100.tmp-<attempt>`, its files are made durable, `COMMITTED` (who, when,
which files of which size) is written last, and one rename gives it its name. Whatever is killed when,
`latentctl.record.checkpoint.latest` finds a whole one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from latentctl.record.atomic import fsync_dir, write_json
from latentctl.record.attempt import ensure_current
from latentctl.record.checkpoint import Checkpoint, candidates, entries, from_marker, remove, steps
from latentctl.record.journal import now
from latentctl.record.paths import COMMITTED, JobPaths, StagePaths

VERSION = 1


def _job(stage: StagePaths) -> JobPaths:
    return JobPaths(stage.root.parent.parent)


# --- writing ------------------------------------------------------------------------------------------------


def commit(
    stage: StagePaths,
    step: int,
    attempt: int,
    spec_hash: str,
    fill: Callable[[Path], None],
    extra: dict[str, Any] | None = None,
    *,
    rank: int = 0,
    barrier: Callable[[], None] | None = None,
) -> None:
    """Write a checkpoint; when this returns, it is durable.

    `fill` writes files into the folder it is given. With several processes all of them call this with the
    same step and with `barrier`; each fills in its own files, rank 0 commits. A checkpoint of the same step
    is replaced. Raises StaleAttempt where a later attempt has begun, OSError where the disk refuses; then
    nothing was committed.
    """
    wait = barrier or (lambda: None)
    began = time.monotonic()
    tmp = prepare(stage, step, attempt) if rank == 0 else _tmp(stage, step, attempt)
    try:
        wait()
        fill(tmp)
        if barrier:
            seal(tmp)
            wait()
        if rank == 0:
            finish(stage, step, attempt, spec_hash, extra, began)
    except BaseException:
        if rank == 0:
            shutil.rmtree(tmp, ignore_errors=True)
        raise
    wait()


def prepare(stage: StagePaths, step: int, attempt: int) -> Path:
    """Rank 0: an empty folder to fill. The others may write into it after a barrier."""
    tmp = _tmp(stage, step, attempt)
    if tmp.exists():
        shutil.rmtree(tmp)
    tmp.mkdir(parents=True)
    return tmp


def finish(
    stage: StagePaths,
    step: int,
    attempt: int,
    spec_hash: str,
    extra: dict[str, Any] | None,
    began: float,
) -> Checkpoint:
    """Rank 0, after every process has filled and sealed its files: commit what `prepare` gave, at `began` of
    the monotonic clock."""
    tmp, final = _tmp(stage, step, attempt), stage.checkpoint(step)
    files = seal(tmp)
    ensure_current(_job(stage), attempt)
    marker = {
        "version": VERSION,
        "step": step,
        "attempt": attempt,
        "spec_hash": spec_hash,
        "time": now(),
        "seconds": round(time.monotonic() - began, 3),
        "extra": extra or {},
        "files": files,
    }
    write_json(tmp / COMMITTED, marker)
    _swap(tmp, final, attempt)
    return from_marker(final, marker)


def publish(stage: StagePaths, target: Path, attempt: int, fill: Callable[[Path], None]) -> None:
    """Replace a folder of the stage (`stage.model`, `stage.best`) by one that `fill` writes, whole.

    For one process. Raises StaleAttempt where a later attempt has begun.
    """
    tmp = target.with_name(f"{target.name}.tmp-{attempt}")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    try:
        fill(tmp)
        seal(tmp)
        ensure_current(_job(stage), attempt)
        _swap(tmp, target, attempt)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def seal(folder: Path) -> dict[str, int]:
    """Make every file below `folder` durable. Returns relative path -> size in bytes.

    Another process may still be writing beside; a temporary file that goes away meanwhile is no matter.
    """
    sizes: dict[str, int] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            try:
                fd = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                os.fsync(fd)
                sizes[path.relative_to(folder).as_posix()] = os.fstat(fd).st_size
            finally:
                os.close(fd)
        fsync_dir(Path(root))
    return dict(sorted(sizes.items()))


def _tmp(stage: StagePaths, step: int, attempt: int) -> Path:
    return stage.checkpoints / f"{stage.checkpoint(step).name}.tmp-{attempt}"


def _swap(tmp: Path, final: Path, attempt: int) -> None:
    """Give `tmp` its name. What bore it stands aside until then; `clean` puts it back if we die."""
    old = None
    if final.exists():
        old = final.with_name(f"{final.name}.old-{attempt}")
        if old.exists():
            shutil.rmtree(old)
        os.rename(final, old)
    os.rename(tmp, final)
    fsync_dir(final.parent)
    if old:
        remove(old)


# --- keeping house ------------------------------------------------------------------------------------------


def clean(stage: StagePaths) -> None:
    """Rank 0, at the start of an attempt: put back what stood aside, remove what was never committed.

    Only the attempt that is current may call this: nobody else writes here then.
    """
    for path, match in entries(stage):
        final = path.with_name(path.name.split(".")[0])
        if match[2] == "old" and not final.exists() and (path / COMMITTED).exists():
            os.rename(path, final)
        elif match[2] is not None or not (path / COMMITTED).exists():
            shutil.rmtree(path, ignore_errors=True)
    for target in (stage.model, stage.best):
        _clean_published(target)
    fsync_dir(stage.checkpoints)


def _clean_published(target: Path) -> None:
    for path in target.parent.glob(f"{target.name}.*-*"):
        if path.name.startswith(f"{target.name}.old-") and not target.exists():
            os.rename(path, target)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def prune(stage: StagePaths, last: int, keep_steps: Collection[int] = ()) -> list[int]:
    """Remove checkpoints but the newest `last` whole ones and `keep_steps`. Returns the removed steps.

    A damaged checkpoint does not count among the newest, so a whole one always stays.
    """
    whole = steps(stage)
    keep = set(whole[-last:]) | set(keep_steps)
    if not whole:
        return []
    removed = []
    for step, path in candidates(stage):
        if step not in keep:
            remove(path)
            removed.append(step)
    return removed
