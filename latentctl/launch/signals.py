"""What a process of a job was told by its scheduler. Standard library alone."""

from __future__ import annotations

import signal
import time
from typing import Any

from latentctl.launch.worker_process import STOP_SIGNALS


class Signals:
    """What this process was told. Handlers only note it: the loop acts."""

    def __init__(self) -> None:
        self.noted: list[tuple[float, signal.Signals]] = []
        for number in (*STOP_SIGNALS, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: Any) -> None:
        self.noted.append((time.monotonic(), signal.Signals(number)))

    def time_is_up(self) -> None:
        """As if the scheduler had sent the signal for the time limit."""
        self._note(signal.SIGUSR2, None)

    @property
    def names(self) -> list[str]:
        """USR2 and TERM, as far as they came."""
        came = {s for _, s in self.noted}
        return [s.name.removeprefix("SIG") for s in STOP_SIGNALS if s in came]

    def force(self, grace: float) -> str | None:
        """Why the worker may not be given more time: INT or a second TERM (`again`), `grace` expired.

        TERMs within a second are one: a shutdown reaches us directly and through submitit's controller.
        """
        if not self.noted:
            return None
        terms = [t for t, s in self.noted if s == signal.SIGTERM]
        if any(s == signal.SIGINT for _, s in self.noted) or (terms and terms[-1] - terms[0] > 1.0):
            return "again"
        return "grace" if time.monotonic() - self.noted[0][0] > grace else None
