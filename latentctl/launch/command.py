"""How a worker is called: its command line and its environment, the same here and on Slurm."""

from __future__ import annotations

import os
from typing import Any

from latentctl.launch import container
from latentctl.launch.processes import ENTRY_MARK, JOB_MARK, RUN_MARK
from latentctl.launch.ranks import Place
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan

SPINS = "10000"
"""How long a thread of a worker spins for its next work before it sleeps. Jobs that share this machine's
cores starve one another by the default: `tests/bench/bench_neighbours.py`."""


def worker_command(run: RunPaths, plan: Plan, job: JobPlan, attempt: int | str) -> list[str]:
    """The worker's command line, inside the profile's container where it names one."""
    inner = [job.interpreter, "-m", "jobs.worker", str(run.root), job.name, str(attempt)]
    return container.wrap(
        inner, container=plan.cluster.get("container"), run=run.root, gpus=job.gpus_per_node
    )


def worker_environment(
    run: RunPaths, plan: Plan, job: JobPlan, place: Place, meeting: dict[str, Any]
) -> dict[str, str]:
    """What a worker is told. `meeting` is attempt.json: it holds `master_addr` and `master_port`.

    Of the GPUs that Slurm, or the lease of this machine, gave to the node's processes it sees its own.
    """
    env = dict(os.environ)
    env.update({k: str(v) for k, v in plan.cluster.get("env", {}).items()})
    env.update(
        PYTHONPATH=str(run.code),
        PYTHONSAFEPATH="1",
        PYTHONUNBUFFERED="1",
        RANK=str(place.rank),
        WORLD_SIZE=str(place.size),
        LOCAL_RANK=str(place.local_rank),
        LOCAL_WORLD_SIZE=str(place.local_size),
        MASTER_ADDR=str(meeting["master_addr"]),
        MASTER_PORT=str(meeting["master_port"]),
    )
    if job.gpus_per_node:
        env["CUDA_VISIBLE_DEVICES"] = own_gpus(job, place.local_rank, env.get("CUDA_VISIBLE_DEVICES"))
    env[RUN_MARK], env[JOB_MARK] = str(run.root), job.name
    env.pop(ENTRY_MARK, None)
    if plan.cluster.get("data_dir"):
        env["LATENTCTL_DATA_DIR"] = str(plan.cluster["data_dir"])
    if place.scheduler == "local":
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order in which nvidia-smi counts, and GPUs are leased
        if "OMP_WAIT_POLICY" not in env:
            env.setdefault("GOMP_SPINCOUNT", SPINS)
    cpus = job.cpus_per_task or len(os.sched_getaffinity(0)) // place.local_size
    env.setdefault("OMP_NUM_THREADS", str(max(1, cpus)))
    return env


def own_gpus(job: JobPlan, local_rank: int, given: str | None) -> str:
    """CUDA_VISIBLE_DEVICES of one process: its part of what is `given` to the node's processes together.

    What is given by another count is left as it is: the scheduler has shared it out already.
    """
    names = list(map(str, range(job.gpus_per_node))) if given is None else given.split(",")
    if given is not None and len(names) != job.gpus_per_node:
        return given
    first = local_rank * job.gpus_per_task
    return ",".join(names[first : first + job.gpus_per_task])
