"""Graders that may hang or crash run in processes of their own: bounded time and memory, killed and
replaced.

Threads and signals do not do: sympy can spend minutes inside one C call, and a time-out by SIGALRM works in
the main thread alone. A verdict that could not be had is an error, never a wrong answer.
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from jobs.grade.protocol import Answered, Grader, Verdict
from jobs.grade.registry import get

START_S = 180.0
"""For a process to import what its grader needs."""
MEMORY_MB = 4096


@dataclass
class _Process:
    """One child. `item` is what it works on; `until` the monotonic time at which it is killed."""

    popen: subprocess.Popen[bytes]
    until: float
    item: int | None = None
    ready: bool = False
    buffer: bytes = field(default=b"")

    def send(self, number: int, item: Answered, seconds: float) -> None:
        self.item, self.until = number, time.monotonic() + seconds
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end shows when reading
            self.popen.stdin.write(json.dumps(asdict(item)).encode() + b"\n")
            self.popen.stdin.flush()


class Pool:
    """Grades many items with one grader. Use it as a context; verdicts are kept by what the grader was
    shown."""

    def __init__(
        self, grader: str, *, timeout: float = 10.0, workers: int | None = None, plugins: Sequence[str] = ()
    ) -> None:
        self.grader: Grader = get(grader, plugins)
        self.timeout = timeout
        self.workers = workers or min(4, len(os.sched_getaffinity(0)))
        self.plugins = list(plugins)
        self._processes: list[_Process] = []
        self._selector = selectors.DefaultSelector()
        self._known: dict[str, Verdict] = {}
        self.restarts = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        for process in list(self._processes):
            self._kill(process)
        self._selector.close()

    def grade(self, items: Iterable[Answered]) -> Iterator[Verdict]:
        """Verdicts in the order of the items."""
        asked = list(items)
        if not getattr(self.grader, "pooled", True):
            yield from (self.grader.grade(item) for item in asked)
            return
        verdicts: dict[int, Verdict] = {}
        keys: dict[int, str] = {}
        todo: dict[str, Answered] = {}
        for number, item in enumerate(asked):
            prepare = getattr(self.grader, "prepare", None)
            shown = prepare(item) if prepare else item
            if isinstance(shown, Verdict):
                verdicts[number] = shown
                continue
            keys[number] = json.dumps(asdict(shown), sort_keys=True, default=str)
            if keys[number] not in self._known:
                todo[keys[number]] = shown
        self._run(todo)
        for number in range(len(asked)):
            yield verdicts[number] if number in verdicts else self._known[keys[number]]

    def _run(self, todo: dict[str, Answered]) -> None:
        keys, items = list(todo), list(todo.values())
        waiting = deque(range(len(items)))
        left = len(items)
        while left:
            busy = [p for p in self._processes if p.item is not None or not p.ready]
            while len(self._processes) < self.workers and len(waiting) > len(busy):
                busy.append(self._spawn())
            for process in self._processes:
                if process.ready and process.item is None and waiting:
                    number = waiting.popleft()
                    process.send(number, items[number], self.timeout)
            for number, verdict in self._wait():
                self._known[keys[number]] = verdict
                left -= 1

    def _wait(self) -> list[tuple[int, Verdict]]:
        """Answers that came, and verdicts on processes that took too long or died."""
        nearest = min(p.until for p in self._processes if p.item is not None or not p.ready)
        done: list[tuple[int, Verdict]] = []
        for key, _ in self._selector.select(max(0.0, nearest - time.monotonic())):
            process: _Process = key.data
            done += self._read(process)
        late = [
            p for p in self._processes if (p.item is not None or not p.ready) and p.until <= time.monotonic()
        ]
        for process in late:
            if not process.ready:
                self._kill(process)
                raise RuntimeError(f"the grader {self.grader.name} did not start within {START_S:g} s")
            if process.item is not None:
                done.append((process.item, Verdict("error", None, f"timed out after {self.timeout:g} s")))
            self._kill(process)
            self.restarts += 1
        return done

    def _read(self, process: _Process) -> list[tuple[int, Verdict]]:
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
                row = json.loads(line)
                done.append((process.item, Verdict(row["status"], row["extracted"], row["reason"])))
                process.item = None
        return done

    def _died(self, process: _Process) -> list[tuple[int, Verdict]]:
        code = process.popen.wait()
        item = process.item
        self._kill(process)
        self.restarts += 1
        if not process.ready:
            raise RuntimeError(
                f"the grader {self.grader.name} ended with code {code} as it started (see stderr)"
            )
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return [] if item is None else [(item, Verdict("error", None, f"the grader's process died: {how}"))]

    def _spawn(self) -> _Process:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [
            sys.executable,
            "-m",
            "jobs.grade.child",
            self.grader.name,
            str(self.timeout),
            str(MEMORY_MB),
        ]
        popen = subprocess.Popen(
            [*command, *self.plugins], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
        )
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
