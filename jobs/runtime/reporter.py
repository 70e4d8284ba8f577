"""What a stage tells the run directory: heartbeat, metrics, events. Nothing here can stop a training.

A full disk or a network file system that hiccups is noted on stderr, and the work goes on. (Results and
checkpoints are another matter: those raise.) Only rank 0 writes. Free of torch.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from latentctl.record.atomic import write_bytes, write_json
from latentctl.record.attempt import StaleAttempt, ensure_current
from latentctl.record.journal import Journal, now
from latentctl.record.paths import JobPaths

if TYPE_CHECKING:
    from jobs.runtime.wandb import WandbSink

_EVERY_S = 1.0
_NOTE_EVERY_S = 60.0


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: numbers out of tensors and arrays; NaN and infinities become None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if callable(item := getattr(value, "item", None)):
        return plain(item())
    return str(value)


class Rate:
    """How fast, and how long still. Fed with (monotonic time in s, step).

    `rate` is the median speed of the recent steps: one slow step (a validation, a checkpoint) does not move
    it. `eta` counts those pauses in: the mean over the whole window, without the first step of the attempt
    (start-up).
    """

    def __init__(self, window: int = 256, recent: int = 32) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=window + 1)
        self._recent = recent
        self._skipped_first = False

    def add(self, at: float, step: float) -> None:
        if self._seen and step < self._seen[-1][1]:
            self._seen.clear()  # another stage, or a rewind
            self._skipped_first = False
        if self._seen and step == self._seen[-1][1]:
            return
        if len(self._seen) == 1 and not self._skipped_first:
            self._seen.clear()
            self._skipped_first = True
        self._seen.append((at, step))

    def per_second(self) -> float | None:
        """Units per second, None while there is nothing to tell from."""
        seen = list(self._seen)[-self._recent - 1 :]
        costs = [((b[0] - a[0]) / (b[1] - a[1]), b[1] - a[1]) for a, b in itertools.pairwise(seen)]
        if not costs:
            return None
        costs.sort()
        half, passed = sum(w for _, w in costs) / 2, 0.0
        for cost, weight in costs:
            passed += weight
            if passed >= half:
                return 1 / cost if cost > 0 else None
        return None

    def eta(self, left: float) -> float | None:
        """Seconds for `left` more units."""
        if len(self._seen) < 2 or left < 0:
            return None
        (t0, s0), (t1, s1) = self._seen[0], self._seen[-1]
        return left * (t1 - t0) / (s1 - s0)


class Reporter:
    """One per stage and process."""

    def __init__(
        self,
        job: JobPaths,
        *,
        stage: str,
        attempt: int,
        main: bool = True,
        journal: Journal | None = None,
        wandb: WandbSink | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job = job
        self.stage = stage
        self.attempt = attempt
        self._main = main
        self._journal = journal
        self._wandb = wandb
        self._clock = clock
        self._rate = Rate()
        self._pending: dict[str, Any] | None = None
        self._written_at = -math.inf
        self._noted: dict[str, tuple[float, int]] = {}
        self._stale = False

    def progress(self, step: int, total: int | None, unit: str = "step", **metrics: Any) -> None:
        """How far the stage is: `step` of `total` (None: not known).

        Written at most once a second, and at the end.
        """
        if not self._main:
            return
        at = self._clock()
        self._rate.add(at, step)
        self._pending = {"step": step, "total": total, "unit": unit, "metrics": metrics}
        if at - self._written_at >= _EVERY_S or step == total:
            self._heartbeat(at)

    def log(self, step: int, **values: Any) -> None:
        """A row of metrics.jsonl: {stage, step, time, attempt, ...values}.

        Values that are not finite become null, and `nonfinite` names them.
        """
        if not self._main or self._stale:
            return
        with self._careful("metrics.jsonl"):
            row = plain(values)
            if broken := [k for k, v in row.items() if v is None and values[k] is not None]:
                row["nonfinite"] = broken
            row.update(stage=self.stage, step=step, time=now(), attempt=self.attempt)
            self._append(row)
        if self._wandb:
            self._wandb.log(self.stage, step, plain(values))

    def rewind(self, step: int) -> None:
        """On resume at `step`: drop this stage's rows beyond it, which this attempt will write again."""
        if not self._main:
            return
        with self._careful("metrics.jsonl"):
            if self.job.metrics.exists():
                lines = self.job.metrics.read_bytes().split(b"\n")
                kept = [line for line in lines if line.strip() and not self._beyond(line, step)]
                write_bytes(self.job.metrics, b"".join(line + b"\n" for line in kept))

    def event(self, event: str, **data: Any) -> None:
        """An event of the journal, with this job, stage and attempt."""
        if not self._main or self._journal is None or self._stale:
            return
        with self._careful("journal"):
            self._journal.append(
                event, job=self.job.name, attempt=self.attempt, stage=self.stage, **plain(data)
            )

    def note(self, message: str) -> None:
        """A line for a person in this rank's log."""
        print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Write what the last second held back."""
        if self._main and self._pending is not None:
            self._heartbeat(self._clock())

    def _heartbeat(self, at: float) -> None:
        pending, self._pending, self._written_at = self._pending, None, at
        if pending is None or self._stale:
            return
        total, step = pending["total"], pending["step"]
        with self._careful("heartbeat.json"):
            ensure_current(self.job, self.attempt)
            rate, eta = self._rate.per_second(), self._rate.eta(total - step) if total is not None else None
            beat = {
                "stage": self.stage,
                "step": step,
                "total": total,
                "unit": pending["unit"],
                "rate": None if rate is None else float(f"{rate:.4g}"),
                "eta_s": None if eta is None else round(eta, 1),
                "metrics": plain(pending["metrics"]),
                "time": now(),
                "attempt": self.attempt,
                "pid": os.getpid(),
                "host": socket.gethostname(),
            }
            write_json(self.job.heartbeat, beat, indent=None)

    def _append(self, row: dict[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self.job.metrics.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.job.metrics, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":  # a write that was cut short
                line = b"\n" + line
            if os.write(fd, line) != len(line):
                raise OSError(f"{self.job.metrics}: short write")
        finally:
            os.close(fd)

    def _beyond(self, line: bytes, step: int) -> bool:
        try:
            row = json.loads(line)
            return row["stage"] == self.stage and row["step"] > step
        except (ValueError, KeyError, TypeError):
            return True  # torn

    @contextmanager
    def _careful(self, what: str):
        """Swallow what goes wrong: note it once, then at most once a minute with a count."""
        try:
            yield
        except StaleAttempt as exc:
            self._stale = True  # the work ends at its next commit; until then it must not speak for the job
            self.note(f"no more reports: {exc}")
        except Exception as exc:
            at = self._clock()
            last, count = self._noted.get(what, (-math.inf, 0))
            if at - last >= _NOTE_EVERY_S:
                more = f" ({count} more times since)" if count else ""
                self.note(f"{what} was not written{more}, the work goes on: {type(exc).__name__}: {exc}")
                self._noted[what] = (at, 0)
            else:
                self._noted[what] = (last, count + 1)
