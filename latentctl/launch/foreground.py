"""`submit --debug`: the jobs of a plan one after the other in the foreground, one process each, on this
terminal."""

from __future__ import annotations

import os
import signal
import subprocess

from latentctl.errors import UserError
from latentctl.launch import gpus
from latentctl.launch.command import worker_command, worker_environment
from latentctl.launch.leases import Machine, state_dir
from latentctl.launch.ranks import Place, free_port
from latentctl.record import attempt as attempts
from latentctl.record.journal import Journal
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan


def run_jobs(run: RunPaths, plan: Plan) -> tuple[str, int]:
    """Run every job of a debug plan. Returns the name of the last one tried and its exit code."""
    name, code = "", 0
    for job in plan.jobs:
        name, code = job.name, _run_job(run, plan, job)
        if code != 0:
            break
    return name, code


def _run_job(run: RunPaths, plan: Plan, job: JobPlan) -> int:
    """One worker that owns the terminal: Ctrl-C and the debugger are its business, not ours."""
    paths = run.job(job.name)
    key = f"debug:{os.getpid()}:{job.name}"
    meeting = {
        "scheduler": "debug",
        "host": "127.0.0.1",
        "master_addr": "127.0.0.1",
        "master_port": free_port(),
    }
    attempt = attempts.claim(paths, key, meeting)
    Journal(run.journal).append("started", job=job.name, attempt=attempt.number)
    place = Place(
        scheduler="local", job_id=str(os.getpid()), restarts=0, rank=0, size=1, local_rank=0, local_size=1,
        nodes=1, host="127.0.0.1", key=key,
    )  # fmt: skip
    env = worker_environment(run, plan, job, place, meeting)
    with Machine(state_dir(), gpus.visible).hold(run.root, job.name, gpus=job.gpus_per_node) as leased:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, leased))
        return _call(run, job, worker_command(run, plan, job, attempt.number), env)


def _call(run: RunPaths, job: JobPlan, command: list[str], env: dict[str, str]) -> int:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(
            command,
            env=env,
            cwd=run.root,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        return process.wait()
    except OSError as error:
        raise UserError(
            f"the interpreter of job {job.name} does not start: {error.strerror}", where=job.interpreter
        ) from None
    finally:
        signal.signal(signal.SIGINT, before)
