"""`submit --debug`: the jobs of a run one after the other in this terminal, so that a debugger can be used."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

from latentctl.errors import UserError
from latentctl.launch import gpus, ranks, verdict
from latentctl.launch.command import worker_command, worker_environment
from latentctl.launch.leases import Machine, Ticket, state_dir
from latentctl.launch.ranks import Place
from latentctl.launch.verdict import End, RankExit
from latentctl.record import attempt as attempts
from latentctl.record import ledger
from latentctl.record.atomic import read_json, write_json
from latentctl.record.journal import Journal, boot_id, now, process_start
from latentctl.record.lease import Held, Lease
from latentctl.record.paths import AttemptPaths, RunPaths
from latentctl.record.plan import EXIT_REQUEUE, JobPlan, Plan

POLL_S = 0.5


def run_foreground(run: RunPaths, plan: Plan) -> bool:
    """Run every unfinished job with this process's own terminal; True if all succeeded.

    One process per job. Ends at the first job that does not succeed: the jobs after it are skipped. Raises UserError
    where the run is under way already, or a job wants more than one process.
    """
    for job in plan.jobs:
        if job.world_size > 1:
            raise UserError(f"job {job.name} asks for {job.world_size} processes; --debug runs one")
    try:
        lease = Lease.acquire(run.supervisor_lease)
    except Held as error:
        raise UserError(
            f"{run.id} is running already (pid {error.owner.pid} on {error.owner.host})"
        ) from None
    journal = Journal(run.journal)
    try:
        good = True
        for job in ledger.unfinished(run, plan):
            coming = ledger.submitting(run, journal, job.name)
            if not good:
                journal.append(
                    "skipped", job=job.name, attempt=coming, message="an earlier job did not succeed"
                )
                continue
            owner = lease.owner
            ident = f"{owner.pid}:{owner.start}:{owner.boot}:{owner.host}"
            ledger.submitted(journal, job.name, coming, executor="local", id=ident)
            good = _run_job(run, plan, job, journal).exit == "succeeded"
        return good
    finally:
        lease.release()


def _run_job(run: RunPaths, plan: Plan, job: JobPlan, journal: Journal) -> End:
    machine = Machine(state_dir(), gpus.visible)
    ticket = machine.ask(run.root, job.name, job.gpus_per_node)
    try:
        ticket = _wait(machine, ticket, int(plan.cluster.get("max_parallel", 2)))
        attempt, place = _claim(run, job)
        journal.append("started", job=job.name, attempt=attempt.number, host=os.uname().nodename)
        env = worker_environment(run, plan, job, place, read_json(attempt.info))
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, ticket.gpus))
        code = _call(worker_command(run, plan, job, attempt.number), env, run)
        if code not in (0, EXIT_REQUEUE):
            verdict.write_failure(attempt, 0, code)
        exits = {0: RankExit(0, code, None, ["TERM"] if code == EXIT_REQUEUE else [])}
        end = verdict.judge(run.job(job.name), attempt, exits, size=1, requeues_left=0, lead=0)
    finally:
        machine.give_back(ticket)
    row = end.record()
    write_json(attempt.end, {**row, "attempt": attempt.number, "time": now()})
    data = {k: v for k, v in row.items() if k != "exit" and v not in (None, [])}
    journal.append(end.event, job=job.name, attempt=attempt.number, **data)
    return end


def _claim(run: RunPaths, job: JobPlan) -> tuple[AttemptPaths, Place]:
    key = f"foreground:{boot_id()}:{os.getpid()}:{time.monotonic_ns()}"
    place = Place("local", str(os.getpid()), 0, 0, 1, 0, 1, 1, "127.0.0.1", key)
    info: dict[str, Any] = {
        "scheduler": "local",
        "id": place.job_id,
        "host": os.uname().nodename,
        "boot": boot_id(),
        "pid": os.getpid(),
        "start": process_start(os.getpid()),
        "world_size": 1,
        "interpreter": job.interpreter,
        "master_addr": place.host,
        "master_port": ranks.free_port(),
    }
    return attempts.claim(run.job(job.name), key, info), place


def _wait(machine: Machine, ticket: Ticket, max_parallel: int) -> Ticket:
    while True:
        granted = machine.grant(ticket, max_parallel=max_parallel)
        if granted is not None:
            return granted
        time.sleep(POLL_S)


def _call(command: list[str], env: dict[str, str], run: RunPaths) -> int:
    """The worker's exit code. Ctrl-C reaches it directly, as it sits at the same terminal; we wait for its answer."""
    try:
        process = subprocess.Popen(command, env=env, cwd=run.root)
    except OSError as error:
        raise UserError(f"cannot start the worker with {command[0]}: {error.strerror}") from None
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, old)
