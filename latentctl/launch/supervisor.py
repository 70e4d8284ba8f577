"""One detached process per local run: starts its jobs in order, when it is their turn, and watches them.

`python -m latentctl.launch.supervisor RUN_DIR`, from the run's snapshot. It holds nothing that is not on
disk: after a kill -9 another one goes on, after it ended what the dead one left running.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentctl.launch import gpus, news, ranks, verdict
from latentctl.launch.entry import entry
from latentctl.launch.leases import Machine, Ticket, state_dir
from latentctl.launch.processes import ENTRY_MARK, JOB_MARK, RUN_MARK, children, end_all, of_run, send
from latentctl.launch.timing import Timing, lead
from latentctl.launch.verdict import End
from latentctl.record import attempt as attempts
from latentctl.record import ledger
from latentctl.record.atomic import try_read_json
from latentctl.record.journal import Journal, now, read
from latentctl.record.lease import TTL_S, Held, Lease
from latentctl.record.paths import AttemptPaths, RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.record.states import fold

MAX_PAUSE_S = 5.0
LATE_S = 5.0
"""After the time limit the entries have this long to end by themselves."""


@dataclass
class Running:
    """A started job."""

    job: JobPlan
    controller: int
    """Pid of submitit's controller, the parent of the entries."""
    key: str
    handle: Any
    """submitit's job."""
    started: float
    told: int = 0
    """How far the time limit got: 1 USR2, 2 TERM, 3 KILL."""


class Supervisor:
    """The jobs of one run on this machine."""

    def __init__(self, run: RunPaths) -> None:
        self.run_paths = run
        self.plan = Plan.load(run.plan)
        self.timing = Timing.from_environment()
        self.journal = Journal(run.journal)
        self.machine = Machine(state_dir(), functools.cache(gpus.visible))
        self.waiting = {j.name: j for j in self.plan.jobs if not run.job(j.name).result.exists()}
        self.tickets: dict[str, Ticket] = {}
        self.running: dict[str, Running] = {}
        self.bad: set[str] = set()
        self.not_before: dict[str, float] = {}
        self.stop = False

    def run(self) -> int:
        """Until every job has ended or cannot start. 0: all succeeded."""
        signal.signal(signal.SIGTERM, self._terminated)
        lease = Lease.acquire(self.run_paths.supervisor_lease)
        try:
            self._accept(lease)
            self._end_leftovers()
            beat = 0.0
            while self.running or (self.waiting and not self.stop):
                try:
                    if time.monotonic() - beat > TTL_S / 4:
                        lease.beat()
                        beat = time.monotonic()
                    self._step()
                except OSError as error:  # a full disk must not leave jobs without a watcher
                    _say(f"{type(error).__name__}: {error}; tried again")
                    time.sleep(1)
                time.sleep(self._pause())
        finally:
            # What still runs, because this process broke, keeps its GPUs: its processes are the proof.
            for name in set(self.tickets) - set(self.running):
                self.machine.give_back(self.tickets[name])
            lease.release()
        return 1 if self.bad or self.waiting else 0

    def _accept(self, lease: Lease) -> None:
        """Say which jobs are now ours: here and not in the command that started us, which may be killed."""
        events = list(read(self.run_paths.journal))
        for job in self.plan.jobs:
            result = try_read_json(self.run_paths.job(job.name).result)
            if result is not None:  # its entry may have been killed before it could say so
                paths = self.run_paths.job(job.name).attempt(result["attempt"])
                self._settle(job.name, paths, End("succeeded"))
        for name in self.waiting:
            _, attempt, _ = fold(events, name)
            ledger.submitted(self.journal, name, attempt or None, executor="local", id=lease.owner.id)
        Lease.acquire(lease.path, ready=True)

    def _pause(self) -> float:
        """Far back in the queue there is no hurry: a thousand points of a sweep wait without load."""
        if self.running or not self.tickets:
            return self.timing.poll
        before = min(self.machine.waiting_before(t) for t in self.tickets.values())
        return min(MAX_PAUSE_S, self.timing.poll * (1 + before))

    def _terminated(self, _number: int, _frame: Any) -> None:
        self.stop = True

    def _step(self) -> None:
        if not self.run_paths.plan.exists():
            end_all(lambda: of_run(self.run_paths.root), grace=0)
            raise SystemExit(f"the run directory has vanished: {self.run_paths.root}")
        for running in list(self.running.values()):
            if running.handle.done():
                self._ended(running)
            elif self.stop:
                self._tell(running, 2, signal.SIGTERM)
            else:
                self._enforce_limit(running)
        if not self.stop:
            self._skip_children()
            self._start_ready()

    # -- starting --------------------------------------------------------------------------------------------

    def _end_leftovers(self) -> None:
        """Jobs of a killed supervisor may still run; they checkpoint and end before anything starts anew."""
        if not of_run(self.run_paths.root):
            return
        grace = max((lead(self.plan, j) for j in self.plan.jobs), default=0.0)
        _say(f"processes of an earlier supervisor still run: asked to end, killed in {grace:g} s")
        left = end_all(lambda: of_run(self.run_paths.root), grace=grace)
        if left:
            raise SystemExit(f"processes of an earlier start do not end: {[p.pid for p in left]}")

    def _skip_children(self) -> None:
        for job in self.plan.jobs:
            parent = next((p for p in job.after if p in self.bad), None)
            if job.name in self.waiting and parent is not None:
                del self.waiting[job.name]
                self.bad.add(job.name)
                _, attempt, _ = fold(read(self.run_paths.journal), job.name)
                self.journal.append(
                    "skipped", job=job.name, attempt=attempt, message=f"{parent} did not succeed"
                )

    def _start_ready(self) -> None:
        for job in list(self.waiting.values()):
            if not all(self._succeeded(parent) for parent in job.after):
                continue
            if time.monotonic() < self.not_before.get(job.name, 0.0):
                continue
            if job.name not in self.tickets:
                self.tickets[job.name] = self.machine.ask(self.run_paths.root, job.name, job.gpus_per_node)
            granted = self.machine.grant(
                self.tickets[job.name], max_parallel=int(self.plan.cluster.get("max_parallel", 2))
            )
            if granted is not None:
                self.tickets[job.name] = granted
                self.running[job.name] = self._start(job, granted)
                del self.waiting[job.name]

    def _succeeded(self, job: str) -> bool:
        """Its processes have ended too: a result is written before the last of them is gone."""
        return job not in self.running and self.run_paths.job(job).result.exists()

    def _start(self, job: JobPlan, ticket: Ticket) -> Running:
        from submitit import LocalExecutor

        folder = self.run_paths.job(job.name).scheduler
        executor = LocalExecutor(folder=folder)
        # submitit's own limit only catches a supervisor that died: ours comes long before
        spare = LATE_S + self.timing.kill_wait + 60
        executor.update_parameters(
            tasks_per_node=job.tasks_per_node, gpus_per_node=len(ticket.gpus),
            visible_gpus=tuple(ticket.gpus), timeout_min=(job.time_s + spare) / 60, signal_delay_s=0,
        )  # fmt: skip
        marks = {RUN_MARK: str(self.run_paths.root), JOB_MARK: job.name, ENTRY_MARK: "1"}
        os.environ.update(marks)  # submitit hands on our environment
        try:
            handle = executor.submit(entry, self.run_paths, job.name)
        except OSError:
            end_all(lambda: of_run(self.run_paths.root, job.name), grace=0)  # half-started
            raise
        finally:
            for name in marks:
                del os.environ[name]
        pid = int(handle.job_id)
        _say(f"{job.name}: started, pid {pid}, GPUs {ticket.gpus or 'none'}")
        return Running(job, pid, ranks.local_key(pid), handle, time.monotonic())

    # -- watching --------------------------------------------------------------------------------------------

    def _enforce_limit(self, running: Running) -> None:
        """USR2 before the limit, TERM soon after it, then KILL: as Slurm does.

        An entry that has not made its attempt yet may not listen either: USR2 would kill it.
        """
        job = running.job
        age = time.monotonic() - running.started
        if age > job.time_s - lead(self.plan, job) and self._find_attempt(running):
            self._tell(running, 1, signal.SIGUSR2)
        if age > job.time_s + LATE_S:
            self._tell(running, 2, signal.SIGTERM)
        if age > job.time_s + LATE_S + self.timing.kill_wait and running.told < 3:
            running.told = 3
            end_all(lambda: of_run(self.run_paths.root, job.name), grace=0)

    def _tell(self, running: Running, level: int, number: signal.Signals) -> None:
        """Signal the entries (submitit's controller would pass on only TERM), once per level."""
        if running.told < level:
            running.told = level
            for process in children(running.controller):
                send(process, number)

    def _ended(self, running: Running) -> None:
        """A job's controller is gone: end what is left of it, free its GPUs, read how it ended."""
        name = running.job.name
        end_all(lambda: of_run(self.run_paths.root, name), grace=0)
        attempt = self._attempt_of(running)
        end = End.load(attempt) or self._silent_end(running, attempt)
        silent = not attempt.end.exists()
        self._settle(name, attempt, end)
        if silent:  # its entry could not say so either
            news.tell(self.run_paths, self.plan, name, attempt.number, end)
        _say(f"{name}: attempt {attempt.number} {end.exit}")
        self.machine.give_back(self.tickets[name])
        # Only now, so that all of this is tried again where the disk was full.
        del self.running[name], self.tickets[name]
        if end.exit in ("requeued", "retried"):
            self.waiting[name] = running.job
            self.not_before[name] = time.monotonic() + end.wait
        elif end.exit != "succeeded":
            self.bad.add(name)

    def _find_attempt(self, running: Running) -> AttemptPaths | None:
        for paths in reversed(self.run_paths.job(running.job.name).attempts()):
            if (try_read_json(paths.info) or {}).get("key") == running.key:
                return paths
        return None

    def _attempt_of(self, running: Running) -> AttemptPaths:
        """The attempt of this start; made now where the entry could not."""
        job = self.run_paths.job(running.job.name)
        made = {"scheduler": "local", "host": os.uname().nodename}
        return self._find_attempt(running) or attempts.claim(job, running.key, made)

    def _silent_end(self, running: Running, attempt: AttemptPaths) -> End:
        """The entry of rank 0 ended without a word: killed, or it could not start."""
        job = self.run_paths.job(running.job.name)
        if verdict.succeeded(job, attempt):
            return End("succeeded")
        logs = sorted(job.scheduler.glob(f"{running.controller}_*_log.err"))
        lines = next((found for log in logs if (found := verdict.tail(log))), [])
        if running.told == 3:
            return End("timed_out", "timeout", "killed at the time limit", lines)
        return verdict.failed("killed", "the job's processes ended without a word", evidence=lines)

    def _settle(self, job: str, attempt: AttemptPaths, end: End) -> None:
        """Complete what an entry was killed over: end.json, and the word in the journal."""
        if not attempt.end.exists():
            end.save(attempt)
        words = {(e.get("job"), e.get("attempt"), e["event"]) for e in read(self.run_paths.journal)}
        if (job, attempt.number, end.event) not in words:
            end.announce(self.journal, job, attempt.number)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the log lies on the same disk
        print(f"{now()} {text}", flush=True)


def main(argv: list[str]) -> int:
    """Run the jobs of the run in argv[0]; stdout and stderr are the supervisor's log."""
    os.umask(os.umask(0o022))
    try:
        return Supervisor(RunPaths(Path(argv[0]))).run()
    except Held as error:
        _say(f"another supervisor runs this run: pid {error.owner.pid} on {error.owner.host}")
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
