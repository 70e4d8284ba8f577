"""Logs are read from their ends and followed by polling."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentctl.record.paths import JobPaths
from latentctl.runs.logfiles import Tail, last_lines, rank_logs


@pytest.mark.parametrize(
    ("data", "count", "lines"),
    [
        (b"", 3, []),
        (b"a\nb\nc\n", 2, ["b", "c"]),
        (b"a\nb\nc", 2, ["b", "c"]),
        (b"a\nb\n", 9, ["a", "b"]),
        (b"a\n", 0, []),
        (b"x\xff\n", 1, ["x\ufffd"]),
        (b"\n\n", 5, ["", ""]),
    ],
)
def test_the_last_lines(tmp_path: Path, data: bytes, count: int, lines: list[str]) -> None:
    path = tmp_path / "log"
    path.write_bytes(data)
    assert last_lines(path, count) == lines


def test_the_last_lines_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {i}\n" for i in range(50_000)))
    assert last_lines(path, 3) == ["line 49997", "line 49998", "line 49999"]
    assert len(last_lines(path, 40_000)) == 40_000


def test_a_growing_file_gives_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_bytes("one\ntw\u00f6".encode()[:-1])  # cut inside a character
    assert list(tail.lines()) == ["one"]
    with open(path, "ab") as f:
        f.write("ö".encode()[-1:] + b"\nthree")
    assert list(tail.lines()) == ["twö"]
    assert tail.rest() == "three"
    path.write_text("new\n")
    assert list(tail.lines()) == ["new"]


def test_logs_go_over_attempts_then_ranks(tmp_path: Path) -> None:
    job = JobPaths(tmp_path)
    for attempt in (1, 2, 10):
        at = job.attempt(attempt)
        at.root.mkdir(parents=True)
        for rank in (0, 1):
            at.stdout(rank).write_text("")
            at.stderr(rank).write_text("")
    found = [(f.attempt, f.rank, f.stream) for f in rank_logs(job, rank=1)]
    assert found == [(a, 1, s) for a in (1, 2, 10) for s in ("err", "out")]
    assert [(f.attempt, f.rank) for f in rank_logs(job, rank=None, attempt=2, streams=("err",))] == [
        (2, 0),
        (2, 1),
    ]
