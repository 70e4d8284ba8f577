"""What was acknowledged is there, whatever kills the writer."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latentctl.record.journal import VERSION, Journal, process_start, read

WRITER = """
import sys
from pathlib import Path
from latentctl.record.journal import Journal
journal = Journal(Path(sys.argv[1]))
for i in range(100000):
    journal.append("progress", job="a", n=i, filling="x" * (i % 700))
    print(i, flush=True)
"""


@pytest.mark.parametrize("kills", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_loses_no_acknowledged_event(tmp_path: Path, kills: int) -> None:
    rng = random.Random(7)
    acknowledged: dict[int, int] = {}
    for _ in range(kills):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "0\n"
        time.sleep(rng.random() * 0.05)
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged[writer.pid] = int(([0, *writer.stdout.read().split()])[-1])
        writer.wait()
    assert len(list(tmp_path.iterdir())) == len(acknowledged) == kills
    found: dict[str, list[int]] = {}
    for path in tmp_path.iterdir():
        found[path.name.split("-")[-2]] = [e["n"] for e in _rows(path)]
    assert sum(map(len, found.values())) == sum(1 for _ in read(tmp_path))
    for pid, last in acknowledged.items():
        assert found[str(pid)] == list(range(len(found[str(pid)])))
        assert len(found[str(pid)]) >= last + 1


def _rows(path: Path) -> list[dict]:
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("one", job="a")
    with open(journal.path, "ab") as f:
        f.write(b'{"v": 1, "event": "tor')
    assert [e["event"] for e in read(tmp_path)] == ["one"]
    journal.append("two", job="a")
    assert [e["event"] for e in read(tmp_path)] == ["one", "two"]


def test_lines_that_are_not_events_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'[1]\n"event"\n{"no": "event"}\n\n\xff\xfe\n{"event": "good"}\n')
    assert [e["event"] for e in read(tmp_path)] == ["good"]


@pytest.mark.parametrize(("count", "each"), [(8, 60), pytest.param(50, 1000, marks=pytest.mark.slow)])
def test_many_writers_lose_nothing(tmp_path: Path, count: int, each: int) -> None:
    code = WRITER.replace("100000", str(each))
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.DEVNULL)
        for _ in range(count)
    ]
    assert [w.wait() for w in writers] == [0] * count
    assert sorted(e["n"] for e in read(tmp_path)) == sorted(list(range(each)) * count)


def test_an_event_carries_what_is_needed_to_fold_it(tmp_path: Path) -> None:
    Journal(tmp_path).append("failed", job="a", attempt=3, message="äöü\u2028")
    (row,) = read(tmp_path)
    assert row | {"time": ""} == {
        "v": VERSION, "event": "failed", "time": "", "job": "a", "attempt": 3, "message": "äöü\u2028",
    }  # fmt: skip


def test_nothing_is_read_where_nothing_was_written(tmp_path: Path) -> None:
    assert list(read(tmp_path / "absent")) == []


def test_a_zombie_is_no_living_process() -> None:
    child = subprocess.Popen(["true"])
    deadline = time.monotonic() + 10
    while process_start(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_start(child.pid) is None  # dead, though not reaped yet
    child.wait()
