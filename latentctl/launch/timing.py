"""How often things are looked at and how long they are waited for; the environment overrides, for tests."""

from __future__ import annotations

import os
from dataclasses import dataclass

from latentctl.record.plan import JobPlan, Plan


@dataclass(frozen=True)
class Timing:
    """All in seconds."""

    poll: float = 0.25
    """Own worker, own signals."""
    watch: float = 2.0
    """Files that other ranks write: each look costs the shared file system."""
    join: float = 300.0
    """Ranks may start so far apart."""
    settle: float = 10.0
    """After the first failure: time for the one behind it to be written down, and for ranks to hear of it."""
    finish: float = 600.0
    """After the own worker is done: how long the other ranks may still need."""
    kill_wait: float = 30.0
    """Between TERM and KILL, beyond the lead that a job was promised."""

    requeue_kill: float = 120.0
    """After a requeue Slurm ends the processes; an exit before could be taken for the job's own end."""

    @staticmethod
    def from_environment() -> Timing:
        """`LATENTCTL_POLL_S=0.05` and so on, one variable per field."""
        given = {f: os.environ.get(f"LATENTCTL_{f.upper()}_S") for f in Timing.__dataclass_fields__}
        return Timing(**{f: float(v) for f, v in given.items() if v})


def lead(plan: Plan, job: JobPlan, *, checkpoint: float = 0.0) -> float:
    """USR2 comes so many seconds before the time limit: `signal_lead` of the profile, or three times what a
    `checkpoint` of the job took, for the step that is under way and for a disk that is busier than then.

    A short job keeps half of its time for work.
    """
    return min(max(float(plan.cluster.get("signal_lead", 120)), 3 * checkpoint), job.time_s / 2)
