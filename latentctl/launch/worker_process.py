"""One worker process: how it is started, told, and ended together with all that it started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1


class WorkerProcess:
    """The leader of its own session.

    Signals go to it alone (its helpers know nothing of them), KILL to its group.
    """

    def __init__(
        self, command: Sequence[str], *, env: dict[str, str], cwd: Path, out: Path, err: Path
    ) -> None:
        """Start it. Raises OSError where the interpreter cannot be run.

        STOP_SIGNALS stay blocked in the child until it listens: one that comes while Python starts waits for
        it.
        """
        with open(out, "ab") as stdout, open(err, "ab") as stderr:
            old = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                self._process = subprocess.Popen(
                    command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                    start_new_session=True, preexec_fn=_die_with_parent(),
                )  # fmt: skip
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, old)
        self.pid = self._process.pid

    def ended(self) -> bool:
        """True once the worker is dead; it is not reaped yet, so that its group's number stays its own."""
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def reap(self) -> int:
        """The exit code (negative: the signal), after killing what the worker left behind in its group."""
        if self._process.returncode is None:
            self._kill_group()
        return self._process.wait()

    def tell(self, number: signal.Signals) -> None:
        if not self.ended():
            self._process.send_signal(number)

    def kill(self) -> None:
        """KILL the whole group, and wait until the worker is dead."""
        if self._process.returncode is None:
            self._kill_group()
        while not self.ended():
            time.sleep(0.01)

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # all dead, or still on its way to its own session
            self._process.kill()


def _die_with_parent():
    """A worker must not outlive the entry that watches it: the next attempt would run beside it."""
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return in_child
