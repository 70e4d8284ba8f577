"""The executor of this machine: no scheduler needed, one detached supervisor per run."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentctl.errors import Exit, UserError
from latentctl.launch import gpus, verdict
from latentctl.launch.command import worker_command
from latentctl.launch.environment import job_environment
from latentctl.launch.processes import Process, end_all, of_run, send
from latentctl.launch.protocol import Batch, Fact, Handle
from latentctl.record import attempt as attempts
from latentctl.record import ledger
from latentctl.record.atomic import try_read_json
from latentctl.record.journal import Journal, boot_id, process_start, read
from latentctl.record.lease import holder_of
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.record.states import TERMINAL, fold

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile

START_S = 30.0
"""A supervisor that has not taken its lease by then has not started."""


class LocalExecutor:
    """Runs plans on this machine. See `protocol.Executor` for the contract of each method."""

    name = "local"

    def __init__(self, profile: ClusterProfile) -> None:
        self.profile = profile

    def preview(self, run: RunPaths, plan: Plan, job: JobPlan) -> str:
        """The command of each of the job's processes, with what its environment adds."""
        shown = {
            "PYTHONPATH": str(run.code),
            "RANK": "0" if job.world_size == 1 else f"0..{job.world_size - 1}",
            "WORLD_SIZE": str(job.world_size),
        }
        if job.gpus_per_node:
            of = f"{job.gpus_per_task} of " if job.gpus_per_task < job.gpus_per_node else ""
            shown["CUDA_VISIBLE_DEVICES"] = f"<{of}{job.gpus_per_node} leased>"
        words = [f"{k}={shlex.quote(v)}" for k, v in shown.items()]
        return " ".join([*words, shlex.join(worker_command(run, plan, job, "ATTEMPT"))])

    def submit(self, run: RunPaths, plan: Plan) -> list[Handle]:
        """Start the supervisor for all jobs without a result.

        A run that is being supervised is left as it is; where all its jobs have ended, and its supervisor is
        only putting things away, that is waited for.
        """
        jobs = ledger.unfinished(run, plan)
        self._refuse(jobs)
        deadline = time.monotonic() + START_S
        while _ending(run, jobs) and time.monotonic() < deadline:
            time.sleep(0.05)
        if jobs and holder_of(run.supervisor_lease) is None:
            ledger.submitting(run, {job.name: {} for job in jobs})
            self._start(run)  # the supervisor says `submitted`
        events = list(read(run.journal))
        found = {job.name: ledger.last_submission(events, job.name) for job in jobs}
        return [Handle(self.name, event["id"], name) for name, event in found.items() if event]

    def submit_all(self, runs: Sequence[tuple[RunPaths, Plan]], batch: Batch) -> list[Handle]:
        """How many run at once is the machine's queue's to say: `max_parallel` of the runs' profile."""
        done: list[tuple[RunPaths, list[Handle]]] = []
        try:
            for run, plan in runs:
                done.append((run, self.submit(run, plan)))
        except BaseException:
            for run, handles in done:
                with contextlib.suppress(UserError):
                    self.cancel(run, handles)
            raise
        return [handle for _, handles in done for handle in handles]

    def _refuse(self, jobs: Sequence[JobPlan]) -> None:
        for job in jobs:
            if job.nodes > 1:
                raise UserError(
                    f"job {job.name} asks for {job.nodes} nodes; this machine is one",
                    key="resources.nodes", hint="submit with --cluster NAME to a Slurm cluster",
                )  # fmt: skip
        want = max((job.gpus_per_node for job in jobs), default=0)
        try:
            here = gpus.visible() if want else []
        except ValueError as error:
            raise UserError(str(error)) from None
        if want > len(here):
            raise UserError(
                f"{want} GPUs asked, this machine has {len(here) or 'none'}",
                key="resources.gpus",
                hint="--set resources.gpus=0 trains on CPU; --cluster NAME goes elsewhere",
            )

    def _start(self, run: RunPaths) -> None:
        """Start a supervisor that outlives this process and its terminal; return once it has the jobs.

        Raises UserError with its last words where it does not.
        """
        run.supervisor_log.parent.mkdir(parents=True, exist_ok=True)
        env = {**job_environment(self.profile.passed), "PYTHONPATH": str(run.code), "PYTHONSAFEPATH": "1"}
        with open(run.supervisor_log, "ab") as log:
            size = log.tell()
            child = subprocess.Popen(
                supervisor_command(self.profile, run), cwd=run.root, env=env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            ended = child.poll() is not None
            holder = holder_of(run.supervisor_lease)
            if holder is not None and (holder.pid != child.pid or _ready(run)):
                return  # it, or another one that was first
            if ended:
                if list(run.journal.glob(f"*-{child.pid}-*.jsonl")):
                    return  # so quick that all is over
                break
            time.sleep(0.02)
        with open(run.supervisor_log, "rb") as f:
            f.seek(size)
            words = f.read().decode("utf-8", "replace").strip().splitlines()
        raise UserError(
            f"the supervisor did not start: {words[-1] if words else 'no word from it'}",
            where=str(run.supervisor_log), code=Exit.CLUSTER, kind="cluster",
        )  # fmt: skip

    def query(self, handles: Sequence[Handle]) -> list[Fact]:
        """`alive` or `gone`: whether the supervisor of each handle lives. None from another machine."""
        return [Fact(handle, *_supervisor_state(handle.id), source="supervisor") for handle in handles]

    def cancel(self, run: RunPaths, handles: Sequence[Handle]) -> None:
        """End the supervisor and every process of the run's jobs, then write down what that cancelled.

        Idempotent; works where the supervisor is dead already. Raises UserError on another machine.
        """
        holder = holder_of(run.supervisor_lease)
        if holder is not None and holder.alive() is None:
            raise UserError(
                f"{run.id} runs on {holder.host}",
                hint=f"cancel it there, not on {socket.gethostname()}",
                code=Exit.CLUSTER,
                kind="cluster",
            )
        if holder is not None:
            send(Process(holder.pid, 0, 0, holder.start), signal.SIGKILL)
        left = end_all(lambda: of_run(run.root), grace=0)
        if left:
            raise UserError(f"processes do not end: {', '.join(str(p.pid) for p in left)}", code=Exit.CLUSTER)
        self._record_cancelled(run)

    def cancel_all(self, runs: Sequence[tuple[RunPaths, Sequence[Handle]]]) -> None:
        for run, handles in runs:
            self.cancel(run, handles)

    def _record_cancelled(self, run: RunPaths) -> None:
        journal, events = Journal(run.journal), list(read(run.journal))
        for job in Plan.load(run.plan).jobs:
            paths = run.job(job.name)
            state, number, _ = fold(events, job.name)
            if state in TERMINAL or paths.result.exists():
                continue
            number = max(number, attempts.current(paths))
            open_attempts = [a for a in paths.attempts() if not a.end.exists()]
            journal.append("cancelled", job=job.name, attempt=number or None)
            for attempt in open_attempts:
                verdict.End("cancelled", message="cancelled").save(attempt)

    def scheduler_logs(self, run: RunPaths, job: JobPlan) -> list[Path]:
        folder = run.job(job.name).scheduler
        return [p for p in (run.supervisor_log, *sorted(folder.glob("*_log.*"))) if p.exists()]


def supervisor_command(profile: ClusterProfile, run: RunPaths) -> list[str]:
    python = profile.interpreter.entry or sys.executable
    return [python, "-m", "latentctl.launch.supervisor", str(run.root)]


def _ending(run: RunPaths, jobs: Sequence[JobPlan]) -> bool:
    """A supervisor lives, but none of these jobs will run again under it."""
    if not jobs or holder_of(run.supervisor_lease) is None:
        return False
    events = list(read(run.journal))
    return all(fold(events, job.name)[0] in TERMINAL for job in jobs)


def _ready(run: RunPaths) -> bool:
    """The supervisor has written down which jobs it has."""
    return bool((try_read_json(run.supervisor_lease) or {}).get("ready"))


def _supervisor_state(id: str) -> tuple[str | None, str | None]:
    """State and reason."""
    pid, start, boot, host = id.split(":", 3)
    if boot == boot_id():
        alive = process_start(int(pid)) == start
        return ("alive", None) if alive else ("gone", f"its supervisor (pid {pid}) has ended")
    if host == os.uname().nodename:
        return "gone", "the machine was restarted"
    return None, f"it runs on {host}"
