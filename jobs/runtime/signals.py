"""Whether this job should stop: USR2 (the time limit comes, or preemption) or TERM. Free of torch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from types import FrameType

from jobs.runtime import distributed

STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


class StopFlag:
    """Set once a stop signal came; never unset.

    `set` is what this process knows; `agreed()` is what all processes know, so that all of them stop at the
    same step.
    """

    def __init__(self) -> None:
        self.set = False
        self.reason: str | None = None
        """`USR2`, `TERM`, or what `request` was told."""

    def install(self, signals: Iterable[signal.Signals] = STOP_SIGNALS) -> None:
        """Listen. For the main thread, before anything heavy is imported: an early signal would kill."""
        signals = tuple(signals)
        for number in signals:
            signal.signal(number, self._came)
        os.register_at_fork(after_in_child=_let_go)
        # The entry may have blocked them until somebody listens, so that none is lost while Python starts.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def _came(self, number: int, _frame: FrameType | None) -> None:
        self.request(signal.Signals(number).name.removeprefix("SIG"))

    def request(self, reason: str) -> None:
        """Ask this job to stop, as a signal would."""
        self.reason = self.reason or reason
        self.set = True

    def agreed(self) -> bool:
        """True where any process of the job was told to stop.

        A collective: call it at the same step on all ranks.
        """
        return bool(distributed.all_max(int(self.set)))


def _let_go() -> None:
    """A forked helper dies of TERM as any process does; USR2, which Slurm may send to all, is not for it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
