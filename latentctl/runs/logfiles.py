"""Where the output of a job's ranks lies, over all its attempts."""

from __future__ import annotations

import codecs
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from latentctl.record.paths import JobPaths

_BLOCK = 65536


@dataclass(frozen=True)
class LogFile:
    """One stream of one rank of one attempt."""

    path: Path
    attempt: int
    rank: int
    stream: str
    """`out` or `err`."""


def rank_logs(
    job: JobPaths,
    *,
    rank: int | None = 0,
    attempt: int | None = None,
    streams: tuple[str, ...] = ("out", "err"),
) -> list[LogFile]:
    """The log files of a job, oldest attempt first, then by rank. `rank` None: all of them."""
    found: list[LogFile] = []
    for at in job.attempts():
        if attempt is not None and at.number != attempt:
            continue
        for path in sorted(at.root.glob("rank-*.*")):
            number, _, stream = path.name.removeprefix("rank-").partition(".")
            if number.isdigit() and stream in streams and rank in (None, int(number)):
                found.append(LogFile(path, at.number, int(number), stream))
    return found


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines, read from the end: a log may be large. Bytes that are no UTF-8 become a sign
    for it."""
    if count <= 0:
        return []
    with open(path, "rb") as f:
        at = f.seek(0, os.SEEK_END)
        data = b""
        while at > 0 and data.count(b"\n") <= count:
            step = min(_BLOCK, at)
            at -= step
            f.seek(at)
            data = f.read(step) + data
    return (
        data.decode("utf-8", "replace").split("\n")[:-1][-count:]
        if data.endswith(b"\n")
        else (data.decode("utf-8", "replace").split("\n")[-count:] if data else [])
    )


@dataclass
class Tail:
    """What a growing file got since the last look. By polling: network file systems tell nobody of
    changes."""

    path: Path
    offset: int = 0
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"), repr=False
    )
    _rest: str = ""

    def lines(self) -> Iterator[str]:
        """New whole lines. A file that became shorter is read from its start again."""
        try:
            with open(self.path, "rb") as f:
                size = f.seek(0, os.SEEK_END)
                if size < self.offset:
                    self.offset, self._rest = 0, ""
                    self._decoder.reset()
                f.seek(self.offset)
                data = f.read()
        except FileNotFoundError:
            return
        self.offset += len(data)
        *whole, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        yield from whole

    def rest(self) -> str:
        """What follows the last line's end, once nothing more is to come."""
        text, self._rest = self._rest, ""
        return text


def recent(paths: list[Path], count: int) -> list[tuple[Path, str]]:
    """The last `count` lines over several files, in the order of the files."""
    kept: deque[tuple[Path, str]] = deque(maxlen=max(0, count))
    for path in paths:
        kept.extend((path, line) for line in last_lines(path, count))
    return list(kept)
