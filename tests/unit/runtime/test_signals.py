"""A stop signal sets a flag; helpers do not inherit that."""

from __future__ import annotations

import subprocess
import sys

from jobs.runtime.signals import StopFlag

LISTENING = """
import os, signal, time
from jobs.runtime.signals import StopFlag

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
os.kill(os.getpid(), signal.SIGUSR2)
flag = StopFlag()
assert not flag.set and not flag.agreed()
flag.install()
assert flag.set and flag.agreed() and flag.reason == "USR2", "a signal from before is not lost"
os.kill(os.getpid(), signal.SIGTERM)
assert flag.reason == "USR2", "the first one counts"

pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGUSR2)
    while True:
        time.sleep(1)
time.sleep(0.2)
assert os.waitpid(pid, os.WNOHANG) == (0, 0), "USR2 kills no helper"
os.kill(pid, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
assert signal.getsignal(signal.SIGTERM) == flag._came
print("listened")
"""


def test_signals_are_noted_and_helpers_stay_mortal():
    done = subprocess.run([sys.executable, "-c", LISTENING], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "listened\n"), done.stderr


def test_a_request_is_as_good_as_a_signal():
    flag = StopFlag()
    flag.request("time")
    flag.request("USR2")
    assert (flag.set, flag.reason, flag.agreed()) == (True, "time", True)
