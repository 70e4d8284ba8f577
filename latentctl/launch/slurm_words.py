"""Slurm's refusals and reasons in words: which field they are about, and what is allowed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from latentctl.errors import Exit, Problem, UserError
from latentctl.launch.protocol import Handle
from latentctl.launch.slurm_parse import words
from latentctl.plan.facts import ClusterFacts, Partition
from latentctl.record.plan import JobPlan

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile

_REFUSALS: tuple[tuple[str, str], ...] = (
    (r"invalid partition", "partition"),
    (r"account.partition combination|invalid account", "account"),
    (r"invalid qos", "qos"),
    (r"QOS\w*(Limit|Per)|accounting/QOS policy|AssocMax\w+|AssocGrp\w+", "qos"),
    (r"time limit|--time specification|Wall", "time"),
    (r"invalid feature", "constraint"),
    (r"memory specification|--mem specification", "mem"),
    (r"more processors requested|cpu count", "cpus"),
    (r"node count specification", "nodes"),
    (r"generic resource|gres|gpus-per", "gpus"),
    (r"invalid wckey", "sbatch.wckey"),
    (r"invalid reservation|requested reservation", "sbatch.reservation"),
    (r"invalid license", "sbatch.licenses"),
    (r"invalid node name", "sbatch.nodelist"),
    (r"requested node configuration", "resources"),
    (r"unrecognized option|invalid --[\w-]+ spec", "sbatch"),
)
"""First match decides; specific ones stand before the general `node configuration`."""

NEVER: dict[str, tuple[str, str]] = {
    "PartitionTimeLimit": ("time", "asks for more time than the partition allows"),
    "PartitionConfig": ("resources", "asks for what its partition does not give"),
    "PartitionNodeLimit": ("nodes", "asks for more nodes than the partition allows"),
    "PartitionDown": ("partition", "waits in a partition that is down"),
    "PartitionInactive": ("partition", "waits in a partition that is inactive"),
    "DependencyNeverSatisfied": ("after", "waits for a job that failed"),
    "JobHeldUser": ("job", "is held by its user (scontrol release JOBID)"),
    "JobHeldAdmin": ("job", "is held by an administrator"),
    "AccountNotAllowed": ("account", "has an account that may not use the partition"),
    "BadConstraints": ("constraint", "has constraints that no node satisfies"),
    "InvalidAccount": ("account", "has an account that is not valid"),
    "InvalidQOS": ("qos", "has a qos that is not valid"),
    "QOSNotAllowed": ("qos", "has a qos that the partition or account does not allow"),
    "QOSMaxWallDurationPerJobLimit": ("time", "asks for more time than the qos allows"),
    "AssocMaxWallDurationPerJobLimit": ("time", "asks for more time than the account allows"),
    "ReqNodeNotAvail": ("resources", "needs nodes that are down or reserved"),
}
"""squeue's reason -> (field, words): an accepted job that cannot start unless somebody changes something."""


_WAITS: dict[str, str] = {
    "None": "Slurm has not looked at it yet",
    "Priority": "jobs of higher priority stand before it",
    "Resources": "it is the next one, and waits until enough nodes are free",
    "Dependency": "it waits for the jobs before it",
    "BeginTime": "its time to begin has not come; a requeued job waits a little",
    "JobArrayTaskLimit": "as many tasks of its array run as may run at once",
    "Licenses": "it waits for a license",
    "Reservation": "it waits for its reservation",
    "Prolog": "its nodes are being prepared",
    "Cleaning": "its last start is being cleaned up",
    "NodeDown": "a node that it needs is down",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved, perhaps for maintenance",
    "QOSMaxJobsPerUserLimit": "as many of your jobs run as the qos allows",
    "QOSMaxGRESPerUser": "your jobs have as many GPUs as the qos allows",
    "QOSMaxCpuPerUserLimit": "your jobs have as many CPUs as the qos allows",
    "QOSGrpGRES": "all jobs of the qos together have as many GPUs as it allows",
    "AssocGrpGRES": "all jobs of the account together have as many GPUs as it allows",
    "AssocGrpCPUMinutesLimit": "the account's CPU time is used up",
    "AssocGrpGRESMinutes": "the account's GPU time is used up",
    "AssocMaxJobsLimit": "as many of your jobs run as the account allows",
}


def waits(reason: str | None) -> str:
    """squeue's reason for a pending job, in words."""
    key = (reason or "None").split(",")[0].strip("() ")
    if key in _WAITS:
        return _WAITS[key]
    if key in NEVER:
        return f"it {NEVER[key][1]}"
    if key.startswith(("QOS", "Assoc")):
        return f"a limit of the {'qos' if key.startswith('QOS') else 'account'} is reached ({key})"
    return f"Slurm says {key}"


def refusal(said: str, *, job: JobPlan, profile: ClusterProfile, facts: ClusterFacts | None) -> UserError:
    """One error for a job that sbatch refused. `facts` None: the cluster was not asked, or did not answer."""
    field = field_of(said)
    asked = _asked(field, job, profile)
    message = f"Slurm refused job {job.name!r}: {words(said) or 'without a word'}"
    if asked:
        message += f" ({asked})"
    hint = (facts and allowed(field, profile, facts)) or "nothing was left in the queue"
    return UserError(
        message,
        where=f"cluster profile {profile.name}",
        key=field,
        hint=hint,
        code=Exit.CLUSTER,
        kind="cluster",
    )


def field_of(said: str) -> str | None:
    """The field of profile or recipe that a refusal is about, as far as its words tell."""
    return next((f for pattern, f in _REFUSALS if re.search(pattern, said, re.IGNORECASE)), None)


def never_runs(reason: str | None, handle: Handle, *, allowed: str | None = None) -> Problem | None:
    """What keeps an accepted job from ever starting; None where it may yet run."""
    key = (reason or "").split(",")[0].strip()
    if re.search(r"account not permitted", reason or "", re.IGNORECASE):
        key = "AccountNotAllowed"
    if key not in NEVER:
        return None
    field, text = NEVER[key]
    hint = f"it stays pending until that changes; stop it with: scancel {handle.id}"
    return Problem(
        f"job {handle.job!r} ({handle.id}) was accepted but {text}: {reason}",
        key=field,
        hint=f"{allowed}; {hint}" if allowed else hint,
    )


def _asked(field: str | None, job: JobPlan, profile: ClusterProfile) -> str:
    gpus = f"{profile.gpu_type + ':' if profile.gpu_type else ''}{job.gpus_per_node}"
    sizes = f"{job.nodes} nodes, per node {job.tasks_per_node} tasks, {gpus} GPUs"
    said = {
        "partition": f"partition: {profile.partition}",
        "account": f"account: {profile.account}, partition: {profile.partition}",
        "qos": f"qos: {profile.qos}",
        "constraint": f"constraint: {profile.constraint}",
        "time": f"time: {-(-job.time_s // 60)} min",
        "mem": f"mem: {job.mem_mb} MiB per node",
        "cpus": f"{job.tasks_per_node} tasks × {job.cpus_per_task or 1} CPUs per node",
        "nodes": f"nodes: {job.nodes}",
        "gpus": f"gpus: {gpus}",
        "resources": sizes + (f", {job.mem_mb} MiB" if job.mem_mb else ""),
    }
    return said.get(field or "", "")


def allowed(field: str | None, profile: ClusterProfile, facts: ClusterFacts) -> str | None:
    """What the live cluster would take instead."""
    partition = facts.partition(profile.partition)
    if field == "partition":
        return "partitions: " + ", ".join(p.name for p in facts.partitions if p.up)
    if field == "account":
        parts = [f"your accounts: {', '.join(facts.accounts)}"] if facts.accounts else []
        if partition is not None and partition.accounts is not None:
            parts.append(f"partition {partition.name} takes {', '.join(partition.accounts)}")
        return "; ".join(parts) or None
    if field == "qos" and facts.qos:
        return "your qos: " + ", ".join(facts.qos)
    if field in ("time", "mem", "cpus", "nodes", "gpus", "resources"):
        return limits(profile, facts)
    return None


def limits(profile: ClusterProfile, facts: ClusterFacts) -> str | None:
    """What the profile's partition has, in words."""
    partition = facts.partition(profile.partition)
    if partition is None:
        return None
    down = "" if partition.up else " is down; it"
    return f"partition {partition.name}{down} has {describe(partition)}"


def describe(partition: Partition) -> str:
    """`4 nodes, per node 8 CPUs, 16000 MiB, GPUs h100:4 or v100:2; up to 60 min`."""
    gpus = " or ".join(f"{kind}:{n}" if kind else str(n) for kind, n in partition.gpus) or "none"
    text = f"{partition.nodes} nodes, per node {partition.cpus_per_node} CPUs, "
    text += f"{partition.mem_mb_per_node} MiB, GPUs {gpus}"
    limits = []
    if partition.max_time_s is not None:
        limits.append(f"{partition.max_time_s // 60} min")
    if partition.max_nodes is not None:
        limits.append(f"{partition.max_nodes} nodes a job")
    return text + (f"; up to {', '.join(limits)}" if limits else "")
