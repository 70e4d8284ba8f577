"""Which of a job's processes this is, read from the environment that submitit or Slurm made."""

from __future__ import annotations

import os
import random
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from latentctl.record.journal import boot_id, process_start

BEGAN = "LATENTCTL_BEGAN"
"""Seconds since 1970 at which the batch script began; the task of rank 0 runs on the same node."""


@dataclass(frozen=True)
class Place:
    """This task among the tasks of one start of a job."""

    scheduler: Literal["local", "slurm"]
    job_id: str
    """Slurm's (array elements as `12_3`); locally the pid of submitit's controller."""
    restarts: int
    rank: int
    size: int
    local_rank: int
    local_size: int
    nodes: int
    host: str
    """The name under which the other ranks reach this one."""
    key: str
    """The same on all ranks of this start, and on no other."""


def from_environment(env: Mapping[str, str] = os.environ) -> Place:
    """Raises ValueError in words outside a job."""
    if env.get("SUBMITIT_EXECUTOR") == "local" or "SUBMITIT_LOCAL_JOB_ID" in env:
        return _local(env)
    if "SLURM_JOB_ID" in env:
        return _slurm(env)
    raise ValueError("neither Slurm nor submitit started this process: SLURM_JOB_ID is not set")


def local_key(controller: int) -> str:
    """The key of a start by submitit's local executor, from the pid of its controller."""
    return f"local:{boot_id()}:{controller}:{process_start(controller)}"


def _local(env: Mapping[str, str]) -> Place:
    controller = int(env["SUBMITIT_LOCAL_JOB_ID"])
    size = int(env["SUBMITIT_LOCAL_NTASKS"])
    rank = int(env["SUBMITIT_LOCAL_GLOBALID"])
    return Place(
        scheduler="local", job_id=str(controller), restarts=0, rank=rank, size=size, local_rank=rank,
        local_size=size, nodes=1, host="127.0.0.1", key=local_key(controller),
    )  # fmt: skip


def _slurm(env: Mapping[str, str]) -> Place:
    raw = env["SLURM_JOB_ID"]
    array = env.get("SLURM_ARRAY_JOB_ID")
    # One element of an array has the array's own id as its raw id, and scontrol would take that for all
    # elements.
    job_id = f"{array}_{env['SLURM_ARRAY_TASK_ID']}" if array else raw
    restarts = int(env.get("SLURM_RESTART_COUNT") or 0)
    node = int(env.get("SLURM_NODEID") or 0)
    size = int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or 1)
    nodes = int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_JOB_NUM_NODES") or 1)
    per_node = tasks_per_node(
        env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or str(size)
    )
    started = env.get("SLURM_JOB_START_TIME", "")  # newer Slurm; tells jobs apart whose ids started again
    return Place(
        scheduler="slurm", job_id=job_id, restarts=restarts, rank=int(env.get("SLURM_PROCID") or 0),
        size=size, local_rank=int(env.get("SLURM_LOCALID") or 0), local_size=per_node[min(node, len(per_node)
        - 1)], nodes=nodes, host=env.get("SLURMD_NODENAME") or socket.gethostname(),
        key=f"slurm:{env.get('SLURM_CLUSTER_NAME', '')}:{raw}:{restarts}:{started}",
    )  # fmt: skip


def since_begin(place: Place, env: Mapping[str, str] = os.environ) -> float:
    """Seconds that the job has run already: modules may take a minute. Its batch script noted the begin."""
    began = env.get(BEGAN) if place.scheduler == "slurm" else None
    return max(0.0, time.time() - float(began)) if began else 0.0


def tasks_per_node(text: str) -> list[int]:
    """Slurm's `2(x3),1` -> [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        m = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if m is None:
            raise ValueError(f"SLURM_TASKS_PER_NODE is {text!r}, expected a form like 2(x3),1")
        counts += [int(m[1])] * int(m[2] or 1)
    return counts


def free_port() -> int:
    """A TCP port that nobody listens on now, outside the range that the kernel hands to outgoing connections.

    Seconds pass until the worker binds it; a port of the kernel's range could be gone by then.
    """
    for _ in range(200):
        port = random.randrange(20000, 32000)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
            try:
                s.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no free TCP port between 20000 and 32000")
