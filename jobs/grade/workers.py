"""Processes of their own for what may hang or crash, graders and rewards: bounded time and memory, killed
and replaced.

Threads and signals do not do: sympy can spend minutes inside one C call, and a time-out by SIGALRM works in
the main thread alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["grader", "reward"]
Row = dict[str, Any]

START_S = 180.0
"""For a process to import what its grader needs."""
MEMORY_MB = 4096
FAILED = "failed"
"""Key of an answer that is none: why, in words."""


def failure(error: Exception) -> str:
    """What a grader or a reward raised, in one line."""
    return f"{type(error).__name__}: {str(error)[:200]}"


@dataclass
class _Process:
    """One child. `item` is what it works on; `until` the monotonic time at which it is killed."""

    popen: subprocess.Popen[bytes]
    until: float
    item: int | None = None
    ready: bool = False
    buffer: bytes = field(default=b"")

    def send(self, number: int, row: Row, seconds: float) -> None:
        self.item, self.until = number, time.monotonic() + seconds
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end shows when reading
            self.popen.stdin.write(json.dumps(row, default=str).encode() + b"\n")
            self.popen.stdin.flush()


class Workers:
    """Runs one grader, or one reward, on many rows. Processes start when they are needed and live until
    `close`."""

    def __init__(
        self,
        kind: Kind,
        name: str,
        *,
        timeout: float,
        workers: int | None = None,
        plugins: Sequence[str] = (),
        memory_mb: int = MEMORY_MB,
    ) -> None:
        self.kind, self.name, self.timeout = kind, name, timeout
        self.workers = workers or min(4, len(os.sched_getaffinity(0)))
        self.plugins = list(plugins)
        self.memory_mb = memory_mb
        self.restarts = 0
        self._processes: list[_Process] = []
        self._selector = selectors.DefaultSelector()

    def close(self) -> None:
        for process in list(self._processes):
            self._kill(process)
        self._selector.close()

    def run(self, rows: Sequence[Row]) -> list[Row]:
        """An answer to each row; {FAILED: why} where it took too long, crashed, or ended its process.

        Raises RuntimeError where the processes do not start at all.
        """
        answers: dict[int, Row] = {}
        waiting = deque(range(len(rows)))
        while len(answers) < len(rows):
            busy = [p for p in self._processes if p.item is not None or not p.ready]
            while len(self._processes) < self.workers and len(waiting) > len(busy):
                busy.append(self._spawn())
            for process in self._processes:
                if process.ready and process.item is None and waiting:
                    number = waiting.popleft()
                    process.send(number, rows[number], self.timeout)
            answers.update(self._wait())
        return [answers[number] for number in range(len(rows))]

    def _wait(self) -> list[tuple[int, Row]]:
        """Answers that came, and those of processes that took too long or died."""
        nearest = min(p.until for p in self._processes if p.item is not None or not p.ready)
        done: list[tuple[int, Row]] = []
        for key, _ in self._selector.select(max(0.0, nearest - time.monotonic())):
            process: _Process = key.data
            done += self._read(process)
        late = [
            p for p in self._processes if (p.item is not None or not p.ready) and p.until <= time.monotonic()
        ]
        for process in late:
            if not process.ready:
                self._kill(process)
                raise RuntimeError(f"the {self.kind} {self.name} did not start within {START_S:g} s")
            if process.item is not None:
                done.append((process.item, {FAILED: f"timed out after {self.timeout:g} s"}))
            self._kill(process)
            self.restarts += 1
        return done

    def _read(self, process: _Process) -> list[tuple[int, Row]]:
        assert process.popen.stdout is not None
        chunk = os.read(process.popen.stdout.fileno(), 1 << 16)
        if not chunk:
            return self._died(process)
        *lines, process.buffer = (process.buffer + chunk).split(b"\n")
        done = []
        for line in lines:
            if not process.ready:
                process.ready = True
            elif process.item is not None:
                done.append((process.item, json.loads(line)))
                process.item = None
        return done

    def _died(self, process: _Process) -> list[tuple[int, Row]]:
        code = process.popen.wait()
        item = process.item
        self._kill(process)
        self.restarts += 1
        if not process.ready:
            raise RuntimeError(
                f"the {self.kind} {self.name} ended with code {code} as it started (see stderr)"
            )
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return [] if item is None else [(item, {FAILED: f"the {self.kind}'s process died: {how}"})]

    def _spawn(self) -> _Process:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        limits = [str(self.timeout), str(self.memory_mb)]
        command = [sys.executable, "-m", "jobs.grade.child", self.kind, self.name, *limits, *self.plugins]
        popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        process = _Process(popen, time.monotonic() + START_S)
        self._processes.append(process)
        assert popen.stdout is not None
        self._selector.register(popen.stdout, selectors.EVENT_READ, process)
        return process

    def _kill(self, process: _Process) -> None:
        self._processes.remove(process)
        popen = process.popen
        if popen.stdout is not None:
            self._selector.unregister(popen.stdout)
        popen.kill()
        popen.wait()
        for stream in (popen.stdin, popen.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
