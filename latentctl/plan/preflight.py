"""A plan held against what the live cluster offers. Pure: whoever has asked the cluster hands its facts
in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from latentctl.plan.facts import ClusterFacts, Partition
from latentctl.record.findings import Finding
from latentctl.record.plan import JobPlan, Plan

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile


def judge(plan: Plan, facts: ClusterFacts, profile: ClusterProfile) -> Iterator[Finding]:
    """What each job asks for, against limits of the partition, the accounts and the qos of the user."""
    partition = facts.partition(profile.partition)
    if partition is None:
        return  # said by the checks of the profile
    yield from _user(facts, partition, profile)
    for job in plan.jobs:
        found = list(_job(job, partition, profile))
        yield from found or [Finding("ok", f"job {job.name}", f"fits {partition.name}: {_asked(job)}")]


def _user(facts: ClusterFacts, partition: Partition, profile: ClusterProfile) -> Iterator[Finding]:
    if profile.account is not None and facts.accounts is not None and profile.account not in facts.accounts:
        mine = ", ".join(facts.accounts) or "none"
        yield Finding("error", "account", f"{profile.account!r} is no account of yours", f"yours: {mine}")
    if profile.qos is not None and facts.qos is not None and profile.qos not in facts.qos:
        yield Finding(
            "error", "qos", f"{profile.qos!r} is no qos of yours", f"yours: {', '.join(facts.qos) or 'none'}"
        )


def _job(job: JobPlan, partition: Partition, profile: ClusterProfile) -> Iterator[Finding]:
    def too_much(key: str, asked: str, has: str) -> Finding:
        return Finding("error", f"job {job.name}", f"asks for {asked}; {has}", f"resources.{key}")

    limit = partition.max_time_s
    if limit is not None and job.time_s > limit:
        yield too_much("time", _minutes(job.time_s), f"{partition.name} allows {_minutes(limit)}")
    nodes = min(partition.max_nodes or partition.nodes, partition.nodes)
    if job.nodes > nodes:
        yield too_much("nodes", f"{job.nodes} nodes", f"{partition.name} gives at most {nodes}")
    kind = profile.gpu_type
    most = partition.gpus_per_node
    if kind is not None:
        most = max((n for name, n in partition.gpus if name == kind), default=0)
    if job.gpus_per_node > most:
        what = f"{kind} GPUs" if kind else "GPUs"
        yield too_much("gpus", f"{job.gpus_per_node} {what} per node", f"the largest node has {most}")
    cpus = job.tasks_per_node * (job.cpus_per_task or 1)
    if partition.cpus_per_node and cpus > partition.cpus_per_node:
        yield too_much("cpus", f"{cpus} CPUs per node", f"the largest node has {partition.cpus_per_node}")
    if job.mem_mb and partition.mem_mb_per_node and job.mem_mb > partition.mem_mb_per_node:
        has = f"the largest node has {partition.mem_mb_per_node} MB"
        yield too_much("mem", f"{job.mem_mb} MB per node", has)


def _asked(job: JobPlan) -> str:
    gpus = f", {job.gpus_per_node} GPUs each" if job.gpus_per_node else ""
    nodes = "1 node" if job.nodes == 1 else f"{job.nodes} nodes"
    return f"{nodes}{gpus}, {_minutes(job.time_s)}"


def _minutes(seconds: int) -> str:
    return (
        f"{seconds // 3600} h {seconds % 3600 // 60:02d}" if seconds >= 3600 else f"{-(-seconds // 60)} min"
    )
