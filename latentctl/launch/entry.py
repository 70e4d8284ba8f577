"""What a scheduler starts, once per task: makes the attempt, runs the worker, writes down how it ended.

Stdlib only, no pydantic, no torch: it runs in the light interpreter of a compute node, from the run's
snapshot. Rank 0 keeps the books of the attempt; every rank watches its own worker and stops it when another
rank failed.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from latentctl.launch import news, ranks, verdict
from latentctl.launch.command import worker_command, worker_environment
from latentctl.launch.hang import HangWatch, hang_after
from latentctl.launch.sequel import Sequel, left_out, no_more
from latentctl.launch.signals import Signals
from latentctl.launch.timing import Timing, lead
from latentctl.launch.verdict import End, RankExit
from latentctl.launch.worker_process import STOP_SIGNALS, WorkerProcess
from latentctl.record import attempt as attempts
from latentctl.record.atomic import try_read_json
from latentctl.record.checkpoint import longest
from latentctl.record.journal import Journal, boot_id, process_start, read
from latentctl.record.paths import AttemptPaths, RunPaths
from latentctl.record.plan import EXIT_REQUEUE, JobPlan, Plan


class JobFailed(Exception):
    """Ends the task with a non-zero exit, so that the scheduler calls it failed too."""


class Vanished(Exception):
    """The run directory is gone; nothing may be written, or it would come back half."""


def entry(run: RunPaths, job: str) -> None:
    """Run one task of `job`.

    Returns when the job succeeded; raises JobFailed otherwise; exits with 85 on a requeue.
    """
    signals = Signals()  # first of all: submitit's own handlers would requeue or ignore
    try:
        Task(run, job, signals).run()
    except Vanished as error:
        _say(str(error))
        raise JobFailed(str(error)) from None
    except OSError as error:
        _say(f"cannot write the records of job {job}: {error}")
        raise


class Task:
    """One process of one start of a job."""

    def __init__(self, run: RunPaths, job: str, signals: Signals) -> None:
        _require(run)
        self.run_paths, self.signals = run, signals
        self.plan = Plan.load(run.plan)
        self.job: JobPlan = self.plan.job(job)
        self.paths = run.job(job)
        self.place = ranks.from_environment()
        self.timing = Timing.from_environment()
        self.journal = Journal(run.journal)
        self.lead = lead(self.plan, self.job)
        self.began = time.monotonic() - ranks.since_begin(self.place)

    def run(self) -> None:
        refusal = self._refusal()
        if refusal is not None and self.place.rank != 0:
            self._give_up(refusal)
        attempt = self._join()
        if refusal is not None:
            return self.close(attempt, refusal)
        if self.place.rank == 0:
            self.journal.append("started", job=self.job.name, attempt=attempt.number, host=self._host(),
                                scheduler=self.place.scheduler, id=self.place.job_id)  # fmt: skip
        mine = self._work(attempt)
        self._write(lambda: mine.save(attempt))
        if self.place.rank == 0:
            self.close(attempt, self._judge(attempt, mine))
        else:
            self._follow(attempt, mine)

    def _refusal(self) -> End | None:
        """What forbids to start at all, found alike by every rank."""
        code = self.run_paths.code
        here = Path(__file__).parents[2]
        if not (code.is_dir() and here.samefile(code)):
            text = f"the entry was imported from {here}, not from the snapshot {code}"
            return verdict.failed("snapshot", text, hint="PYTHONPATH of the job must begin with the snapshot")
        if self.place.size != self.job.world_size:
            text = f"{self.place.size} processes were started, the plan says {self.job.world_size}"
            return verdict.failed("world_size", text)
        for parent in self.job.after:
            if not self.run_paths.job(parent).result.exists():
                text = f"{self.job.name} was not run: {parent} has not succeeded (it has no result.json)"
                return verdict.failed("parent", text, hint=f"`latentctl show {self.run_paths.id}` says why")
        return None

    # -- the attempt -----------------------------------------------------------------------------------------

    def _join(self) -> AttemptPaths:
        """Rank 0 makes the attempt, with the address at which the ranks will meet; the others wait for it."""
        if self.place.rank == 0:
            return attempts.claim(self.paths, self.place.key, self.info())
        begin = time.monotonic()
        while True:
            found = attempts.find(self.paths, self.place.key)
            if found is not None:
                return found
            waited = time.monotonic() - begin
            if waited > self.timing.settle and attempts.has_ended(self.paths, self.place.key):
                raise JobFailed(f"{self.job.name} ended before rank {self.place.rank} could join")
            if waited > self.timing.join:
                raise JobFailed(f"rank 0 made no attempt of {self.job.name} within {self.timing.join:g} s")
            _require(self.run_paths)
            time.sleep(self.timing.poll)

    def info(self) -> dict[str, Any]:
        """For attempt.json."""
        return {
            "scheduler": self.place.scheduler,
            "id": self.place.job_id,
            "restarts": self.place.restarts,
            "host": self._host(),
            "nodes": os.environ.get("SLURM_JOB_NODELIST") or self._host(),
            "boot": boot_id(),
            "pid": os.getpid(),
            "start": process_start(os.getpid()),
            "world_size": self.place.size,
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "interpreter": self.job.interpreter,
            "master_addr": self.place.host,
            "master_port": ranks.free_port(),
        }

    def scheduler_log(self) -> Path | None:
        """Where Slurm and the entries of this start write their errors, as far as it can be found."""
        events = (e for e in read(self.run_paths.journal) if e.get("job") == self.job.name and "logs" in e)
        folders = [self.paths.scheduler, *(Path(e["logs"]) for e in events)]
        logs = (f / f"{self.place.job_id}_0_log.err" for f in folders)
        return next((log for log in logs if log.exists()), None)

    def _host(self) -> str:
        return os.uname().nodename if self.place.scheduler == "local" else self.place.host

    # -- the worker ------------------------------------------------------------------------------------------

    def _work(self, attempt: AttemptPaths) -> RankExit:
        """Run the worker to its end. Leaves a failure file where it failed by its own."""
        rank = self.place.rank
        meeting = try_read_json(attempt.info) or {}
        env = worker_environment(self.run_paths, self.plan, self.job, self.place, meeting)
        watch = HangWatch(attempt, self.place, hang_after(self.plan))
        try:
            worker = WorkerProcess(
                worker_command(self.run_paths, self.plan, self.job, attempt.number),
                env=env | watch.environment, cwd=self.run_paths.root, out=attempt.stdout(rank),
                err=attempt.stderr(rank),
            )  # fmt: skip
        except OSError as error:
            watch.close()
            _require(self.run_paths)
            self._cannot_start(attempt, error)
            return RankExit(rank, None, None, self.signals.names, self._host())
        try:
            stopped = self._watch(attempt, worker, watch)
        finally:
            worker.kill()
            code = worker.reap()
            watch.close()
        if stopped is None and -code in STOP_SIGNALS and self.signals.names:
            code = EXIT_REQUEUE  # told to stop before it could listen: nothing is lost
        if stopped is None and code not in (0, EXIT_REQUEUE):
            self._write(lambda: verdict.write_failure(attempt, rank, code))
        return RankExit(rank, code, stopped, self.signals.names, self._host())

    def _watch(self, attempt: AttemptPaths, worker: WorkerProcess, hang: HangWatch) -> str | None:
        """Wait for the worker, hand signals on, and see whether it must stop.

        Returns why it has to be killed.
        """
        told, settled = 0, 0.0
        look = time.monotonic() + self.timing.watch
        while not worker.ended():
            for _, number in self.signals.noted[told:]:
                told += 1
                if number in STOP_SIGNALS:
                    worker.tell(number)
            force = self.signals.force(self.lead)
            if force is not None:
                return force
            if time.monotonic() >= look:
                look = time.monotonic() + self.timing.watch
                if self.place.rank == 0 and not self.signals.noted:
                    self._reckon()
                if not self.signals.noted and self._hangs(attempt, worker, hang):
                    return "hang"
                attempts.ensure_current(self.paths, attempt.number)
                _require(self.run_paths)
                others = verdict.failed_elsewhere(attempt, self.place.rank)
                if others == "consequence" and not settled:
                    settled = time.monotonic() + self.timing.settle
                if others == "cause" or attempt.end.exists() or (settled and time.monotonic() > settled):
                    return None if worker.ended() else "peer"
            time.sleep(self.timing.poll)
        return None

    def _hangs(self, attempt: AttemptPaths, worker: WorkerProcess, hang: HangWatch) -> bool:
        """True on rank 0 where no rank goes on any more; why is written down then."""
        try:
            found = hang.look(worker)
        except OSError as error:
            _say(f"whether the job hangs cannot be told: {error}")
            return False
        if found is None:
            return False
        rank, text, lines = found
        self._write(
            lambda: verdict.save_failure(attempt, rank, kind="hang", message=text, hint=None, evidence=lines)
        )
        return True

    def _reckon(self) -> None:
        """Rank 0: checkpoints of this job may take longer than the scheduler's signal allows for, which was
        set when the job was submitted. All ranks stop when one is told."""
        left = self.began + self.job.time_s - time.monotonic()
        if left > self.job.time_s / 2:  # no lead is longer
            return
        self.lead = lead(self.plan, self.job, checkpoint=longest(self.paths))
        if left < self.lead:
            self.signals.time_is_up()

    def _cannot_start(self, attempt: AttemptPaths, error: OSError) -> None:
        text = f"cannot start the worker with {self.job.interpreter}: {error.strerror}"
        hint = f"name a python under interpreter.{self.job.role} of the cluster profile"
        self._write(
            lambda: verdict.save_failure(attempt, self.place.rank, kind="start", message=text, hint=hint)
        )

    # -- the end ---------------------------------------------------------------------------------------------

    def _judge(self, attempt: AttemptPaths, mine: RankExit) -> End:
        exits = self._collect(attempt, mine)
        enough = no_more(self.plan, self.job, self.paths, attempt)
        return verdict.judge(self.paths, attempt, exits, size=self.place.size, no_more=enough, lead=self.lead)

    def _collect(self, attempt: AttemptPaths, mine: RankExit) -> dict[int, RankExit]:
        """The exits of all ranks, as far as they come in time."""
        exits = {0: mine}
        deadline = time.monotonic() + self.timing.finish
        hurry = False
        while len(exits) < self.place.size and time.monotonic() < deadline:
            for rank in range(1, self.place.size):
                found = None if rank in exits else RankExit.load(attempt, rank)
                if found is not None:
                    exits[rank] = found
            if not hurry and (
                mine.stopped
                or "TERM" in self.signals.names
                or attempt.failures()
                or verdict.succeeded(self.paths, attempt)  # written when all ranks had done their work
            ):
                hurry, deadline = True, min(deadline, time.monotonic() + self.timing.settle)
            if len(exits) < self.place.size:
                _require(self.run_paths)
                time.sleep(self.timing.poll)
        return exits

    def close(self, attempt: AttemptPaths, end: End) -> None:
        """Rank 0 writes the end down, then acts on it."""
        attempts.ensure_current(self.paths, attempt.number)
        if "TERM" not in self.signals.names:  # whoever sent it has decided what follows
            try:
                end = Sequel(self.run_paths, self.plan, self.job, self.place).after(attempt, end)
            except OSError as error:
                _say(f"the rules for failures cannot be followed: {error}")
        self._record(attempt, end)
        if end.exit == "succeeded":
            return
        if end.exit in ("requeued", "retried"):
            self._requeue(attempt, end)
        self._give_up(end)

    def _record(self, attempt: AttemptPaths, end: End) -> None:
        self._write(lambda: end.save(attempt))
        self._write(lambda: end.announce(self.journal, self.job.name, attempt.number))
        news.tell(self.run_paths, self.plan, self.job.name, attempt.number, end)

    def _requeue(self, attempt: AttemptPaths, wanted: End) -> None:
        """Ask Slurm for another start; locally the supervisor reads it in end.json. Returns only never."""
        if self.place.scheduler == "slurm":
            from latentctl.launch.slurm_client import NotRunning, requeue

            try:
                requeue(self.place.job_id, without=left_out(self.run_paths, self.plan), wait=wanted.wait)
            except NotRunning as error:  # cancelled, preempted or requeued meanwhile: that decides
                end = End("preempted", "preemption", f"{wanted.message}; {error}")
                self._record(attempt, end)
                self._give_up(end)
            except Exception as error:
                end = verdict.failed("requeue", f"{wanted.message}; could not be requeued: {error}")
                self._record(attempt, end)
                self._give_up(end)
            time.sleep(self.timing.requeue_kill)
        raise SystemExit(EXIT_REQUEUE)

    def _follow(self, attempt: AttemptPaths, mine: RankExit) -> None:
        """The other ranks wait for rank 0's word: a task that ends early may take the whole step with it."""
        if mine.code == 0:
            return
        wait = self.timing.settle * 2 if mine.code != EXIT_REQUEUE else self.timing.finish
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline and not attempt.end.exists():
            _require(self.run_paths)
            time.sleep(self.timing.poll)
        end = try_read_json(attempt.end) or {}
        asked = mine.code == EXIT_REQUEUE and end.get("exit") in ("requeued", None)
        if asked or end.get("exit") == "retried":
            if self.place.scheduler == "slurm":
                time.sleep(self.timing.requeue_kill)
            raise SystemExit(EXIT_REQUEUE)
        raise JobFailed(end.get("message") or f"rank {self.place.rank} ended with code {mine.code}")

    def _give_up(self, end: End) -> None:
        text = f"job {self.job.name}: {end.message or end.exit}"
        _say(text + (f"\nhint: {end.hint}" if end.hint else ""))
        raise JobFailed(text)

    def _write(self, write: Any) -> None:
        """A record that cannot be written (disk full) is said on stderr; what it was about goes on."""
        _require(self.run_paths)
        try:
            write()
        except OSError as error:
            _say(f"cannot write the records of job {self.job.name}: {error}")


def run_of(where: str) -> RunPaths:
    """A run directory; of `@FILE`, which lists the runs of an array, one a line, that of this element."""
    if where.startswith("@"):
        where = Path(where[1:]).read_text().splitlines()[int(os.environ["SLURM_ARRAY_TASK_ID"])]
    return RunPaths(Path(where))


def main(argv: list[str]) -> None:
    """`python -m latentctl.launch.entry RUN_DIR JOB`."""
    where, job = argv
    try:
        entry(run_of(where), job)
    except JobFailed:  # said already
        sys.exit(1)


def _require(run: RunPaths) -> None:
    if not run.plan.exists():
        raise Vanished(f"the run directory has vanished: {run.root}")


def _say(text: str) -> None:
    print(f"latentctl: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
