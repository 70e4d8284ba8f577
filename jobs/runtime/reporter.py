"""What a stage tells the run directory: heartbeat, metrics, events. Nothing here can stop a training.

A full disk or a network file system that hiccups is noted on stderr, and the work goes on; one that hangs
holds up the heartbeat's own thread, not the work. (Results and checkpoints are another matter: those raise.)
Only rank 0 writes; every rank has a pulse (`latentctl.record.pulse`). Free of torch.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jobs.runtime.metrics import MetricsFile
from jobs.runtime.rate import Rate
from latentctl.record.atomic import write_json
from latentctl.record.attempt import StaleAttempt, ensure_current
from latentctl.record.journal import Journal, now
from latentctl.record.paths import JobPaths
from latentctl.record.pulse import PULSE, Beat, Pulse

if TYPE_CHECKING:
    from jobs.runtime.wandb import WandbSink

EVERY_S = 1.0
_NOTE_EVERY_S = 60.0
_CLOSE_S = 10.0
_SAY_EVERY_S = 15.0
"""Between lines of progress in the log of a stage that logs no metrics of its own."""


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
        every: float = EVERY_S,
    ) -> None:
        """`every`: seconds between heartbeats."""
        self.job = job
        self.stage = stage
        self.attempt = attempt
        self._main = main
        self._journal = journal
        self._wandb = wandb
        self._metrics = MetricsFile(job.metrics)
        self._noted: dict[str, tuple[float, int]] = {}
        self._noting = threading.Lock()  # the writing thread and the working one may fail at once
        self._stale = False
        self._every = every
        self._rate = Rate()
        self._lock = threading.Lock()
        self._pending: dict[str, Any] | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._said = time.monotonic()
        self._total: int | None = None
        self._pulse = Pulse(os.environ.get(PULSE))
        self._at = Beat(stage, 0, "step", 0)
        self._pulse.tell(self._at)

    def alive(self, work: int) -> None:
        """The work goes on between two steps: `work` is anything that grows, such as a count of tokens.

        On every rank; for the entry, which ends a job that stands still.
        """
        self._at = self._at._replace(work=work)
        self._pulse.tell(self._at)

    def progress(self, step: int, total: int | None, unit: str = "step", **metrics: Any) -> None:
        """How far the stage is: `step` of `total` (None: not known).

        Reaches heartbeat.json at once the first time, then within a second, and at the end of the stage.
        """
        self._at = Beat(self.stage, step, unit, self._at.work)
        self._pulse.tell(self._at)
        if not self._main:
            return
        with self._careful("heartbeat.json"):
            told = {"step": step, "total": total, "unit": unit, "metrics": plain(metrics)}
            with self._lock:
                self._rate.add(time.monotonic(), step)
                self._pending = told
                if unit == "step":
                    self._total = total
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
                self._thread.start()

    def log(self, step: int, **values: Any) -> None:
        """A row of metrics.jsonl: {stage, step, time, attempt, ...values}.

        Values that are not finite become null, and `nonfinite` names them.
        """
        if not self._main or self._stale:
            return
        with self._careful("metrics.jsonl"):
            numbers = plain(values)
            if self._wandb:
                self._wandb.log(self.stage, step, numbers)
            whose = {"stage": self.stage, "step": step, "time": now(), "attempt": self.attempt}
            row = {**whose, **numbers, **whose}  # first for the eye, last to win
            if broken := [k for k, v in numbers.items() if v is None and values[k] is not None]:
                row["nonfinite"] = broken
            self._metrics.append(row)
            self._say(step, numbers)

    def rewind(self, step: int) -> None:
        """On resume at `step`: drop this stage's rows beyond it, which this attempt will write again."""
        if self._main:
            with self._careful("metrics.jsonl"):
                self._metrics.rewind(self.stage, step)

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

    def _say(self, step: int, numbers: dict[str, Any]) -> None:
        """A line of progress for whoever reads this rank's log."""
        self._said = time.monotonic()
        of = f"/{self._total}" if self._total else ""
        shown = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items()]
        print("  ".join([f"{self.stage} {step}{of}", *shown]), flush=True)

    def close(self) -> None:
        """Write what is held back. Waits for a hanging file system for a bounded time."""
        self._closing.set()
        if self._thread:
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                self.note(f"heartbeat.json still waits for its disk after {_CLOSE_S:g} s; the work goes on")
        self._metrics.close()

    def _beat(self) -> None:
        """The heartbeat's thread: the newest progress about once a second, and once more at the end."""
        ending = False
        while not ending:
            ending = self._closing.is_set()
            with self._lock:
                told, self._pending = self._pending, None
                rate = self._rate.per_second()
                left = None if told is None or told["total"] is None else told["total"] - told["step"]
                eta = None if left is None else self._rate.eta(left)
            if told is not None and not self._stale:
                self._write(told, rate, eta)
            self._metrics.sync()
            if not ending:
                self._closing.wait(self._every)

    def _write(self, told: dict[str, Any], rate: float | None, eta: float | None) -> None:
        with self._careful("heartbeat.json"):
            ensure_current(self.job, self.attempt)
            beat = {
                "stage": self.stage,
                **told,
                "rate": None if rate is None else float(f"{rate:.4g}"),
                "eta_s": None if eta is None else round(eta, 1),
                "time": now(),
                "attempt": self.attempt,
                "pid": os.getpid(),
                "host": socket.gethostname(),
            }
            write_json(self.job.heartbeat, beat, pretty=False)
        if time.monotonic() - self._said >= _SAY_EVERY_S:
            self._say(told["step"], told["metrics"])

    @contextmanager
    def _careful(self, what: str) -> Iterator[None]:
        """Swallow what goes wrong: note it once, then at most once a minute with a count."""
        try:
            yield
        except StaleAttempt as exc:
            self._stale = True  # the work ends at its next commit; until then it must not speak for the job
            self.note(f"no more reports: {exc}")
        except Exception as exc:
            at = time.monotonic()
            with self._noting:
                last, count = self._noted.get(what, (-math.inf, 0))
                often = at - last < _NOTE_EVERY_S
                self._noted[what] = (last, count + 1) if often else (at, 0)
            if not often:
                more = f" ({count} more times since)" if count else ""
                self.note(f"{what} was not written{more}, the work goes on: {type(exc).__name__}: {exc}")
