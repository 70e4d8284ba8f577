"""What the batch script calls where srun failed: says for the entries what they could not say themselves.

An entry that is killed (by the kernel for memory, by somebody) writes no end. Slurm would call the job
failed, and nobody would start it again. Standard library alone.
"""

from __future__ import annotations

import signal
import sys

from latentctl.launch import verdict
from latentctl.launch.entry import JobFailed, Task, Vanished, run_of
from latentctl.launch.sequel import no_more
from latentctl.launch.signals import Signals
from latentctl.launch.verdict import End
from latentctl.record import attempt as attempts
from latentctl.record.paths import AttemptPaths

_SIGNALLED = 128
"""A shell adds the signal to this."""


def aftermath(task: Task, code: int) -> None:
    """End the attempt that is open, by the rules for failures. `code` is srun's. Raises JobFailed, OSError;
    exits where the job starts again."""
    key = task.place.key
    attempt = attempts.find(task.paths, key)
    if attempt is None:
        if attempts.has_ended(task.paths, key):
            return  # the entry has said how
        attempt = attempts.claim(task.paths, key, task.info())
    end = End("succeeded") if verdict.succeeded(task.paths, attempt) else _judged(task, attempt, code)
    task.close(attempt, end)


def _judged(task: Task, attempt: AttemptPaths, code: int) -> End:
    number = code - _SIGNALLED
    if number == signal.SIGUSR2:  # it came before Python listened: nothing is lost
        enough = no_more(task.plan, task.job, task.paths, attempt)
        return verdict.wants_more({"USR2"}, enough, how="told to stop before it could listen")
    if number == signal.SIGTERM:  # whoever sent it decides
        return End("preempted", "preemption", "stopped by SIGTERM before it could listen")
    log = task.scheduler_log()
    if number > 0:
        text = f"the job's processes were killed by {verdict.signal_name(number)}"
    else:
        text = f"the job's processes went away without a word; srun ended with exit code {code}"
    return verdict.failed("unknown", text, evidence=verdict.tail(log) if log is not None else [])


def main(argv: list[str]) -> None:
    """`python -m latentctl.launch.aftermath CODE RUN_DIR JOB`, in the environment of the batch script."""
    code, where, job = argv
    try:
        aftermath(Task(run_of(where), job, Signals()), int(code))
    except Vanished as error:
        sys.exit(str(error))
    except JobFailed:  # said already
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
