"""Writing files so that a reader sees the old bytes or the new ones, never a part of them."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_together = False


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` atomically: temporary file in the same folder, fsync, rename, fsync of the folder."""
    tmp = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        with _create(tmp) as f:
            f.write(data)
            f.flush()
            fsync(f.fileno())
        os.replace(tmp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise
    fsync_dir(path.parent)


def _create(path: Path) -> BinaryIO:
    """A new file; its folder is made where there is none."""
    try:
        return open(path, "xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "xb")


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, *, pretty: bool = True) -> None:
    write_text(path, json_text(value) if pretty else _line(value) + "\n")


def json_text(value: Any) -> str:
    """For people."""
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def try_read_json(path: Path) -> Any | None:
    """The content, or None where the file is absent. A damaged file raises: it was written atomically."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def together(folder: Path) -> Iterator[None]:
    """What is written inside is made durable at the end, by one call for the file system of `folder`: for
    thousands of small files."""
    global _together
    outer, _together = _together, True
    try:
        yield
    finally:
        _together = outer
    if not outer:
        _sync(folder)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None or syncfs(fd) != 0:
            os.sync()
    finally:
        os.close(fd)


def fsync(fd: int) -> None:
    """Unless `together` does it later."""
    if not _together:
        os.fsync(fd)


def fsync_dir(path: Path) -> None:
    """Make a rename durable. Some network file systems refuse to fsync a folder: that is not an error."""
    if _together:
        return
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
