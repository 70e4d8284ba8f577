"""Why a job waits, and what would let it start sooner: asked of the scheduler, put into words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from latentctl.errors import UserError
from latentctl.launch import slurm_words
from latentctl.launch.observe import executor_of, handle_of
from latentctl.runs.outlook import Change, Outlook
from latentctl.runs.view import JobView, RunView

if TYPE_CHECKING:
    from latentctl.launch.slurm import SlurmExecutor
    from latentctl.plan.facts import ClusterFacts, Partition

_START = re.compile(r"to start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)")
_WORTH_S = 60
"""A change that brings a job forward by less is not worth a word."""
_ASKED = 8
"""At most so many questions about other partitions and shorter times."""


def outlook(view: RunView, job: JobView) -> Outlook:
    """Of a job that is planned, submitted or pending. What does not answer is left out."""
    waits = [p for p in job.plan.after if next(j.state for j in view.jobs if j.name == p) != "succeeded"]
    if job.handle is None:
        return Outlook(
            "it was planned and never submitted", hint=f"`latentctl retry {view.run.id}` submits it"
        )
    if view.plan.cluster.get("executor") == "slurm":
        return _slurm(view, job, waits)
    if waits:
        return Outlook(f"waits for {', '.join(waits)}")
    return _local(view, job)


def _local(view: RunView, job: JobView) -> Outlook:
    from latentctl.launch.leases import Machine, state_dir

    tickets = Machine(state_dir(), list).queue(job.plan.gpus_per_node)
    mine = next((i for i, t in enumerate(tickets) if (t.run, t.job) == (str(view.run.root), job.name)), None)
    if mine is None:
        return Outlook("its supervisor has not brought it to the queue of this machine yet")
    what = "GPUs" if job.plan.gpus_per_node else f"one of {view.plan.cluster.get('max_parallel', 2)} places"
    before = f"{mine} job{'s' * (mine != 1)} before it" if mine else "the first in line"
    return Outlook(f"waits for {what} of this machine: {before}")


def _slurm(view: RunView, job: JobView, waits: list[str]) -> Outlook:
    executor: Any = executor_of(view.plan)
    handle = handle_of(job)
    assert handle is not None, "asked of submitted jobs alone"
    row = None
    with contextlib.suppress(UserError):
        row = executor.client.live([handle.id]).get(handle.id)
    raw = row.reason if row is not None else None
    stuck = slurm_words.never_runs(raw, handle) is not None
    if waits and not stuck:
        return Outlook(f"waits for {', '.join(waits)}", raw)
    facts = executor.facts_or_none()
    allowed = facts and slurm_words.limits(executor.profile, facts)
    if never := slurm_words.never_runs(raw, handle, allowed=allowed):
        return Outlook(slurm_words.waits(raw), raw, never=never.message, hint=never.hint)
    start = None
    with contextlib.suppress(UserError):
        start = executor.client.starts([handle.id]).get(handle.id)
    changes = list(_changes(executor, view, job, facts, start)) if facts is not None else []
    return Outlook(
        slurm_words.waits(raw), raw, start=start, changes=sorted(changes, key=lambda c: c.start)[:3]
    )


def _changes(
    executor: SlurmExecutor, view: RunView, job: JobView, facts: ClusterFacts, start: str | None
) -> Iterator[Change]:
    """What would start sooner, by `sbatch --test-only`."""
    from latentctl.launch.slurm_script import flags

    asked = dict(flags(view.run, job.plan, executor.profile))
    here = facts.partition(executor.profile.partition)
    tries: list[tuple[str, dict[str, str]]] = []
    minutes = int(asked["time"])
    tries += [(f"a time limit of {m} min", {"time": str(m)}) for m in (minutes // 2, minutes // 4) if m >= 1]
    others = [p for p in facts.partitions if p.up and p is not here and _takes(p, job, facts, minutes)]
    tries += [(f"partition {p.name}", {"partition": p.name}) for p in others]
    for words, other in tries[:_ASKED]:
        try:
            said = executor.client.test_only([f"--{k}={v}" for k, v in {**asked, **other}.items()])
        except UserError:
            continue
        found = _START.search(said)
        if found and (start is None or _seconds(found[1], start) > _WORTH_S):
            yield Change(words, found[1])


def _takes(partition: Partition, job: JobView, facts: ClusterFacts, minutes: int) -> bool:
    """Whether the job fits its limits, as far as they are known."""
    plan = job.plan
    if partition.max_time_s is not None and partition.max_time_s < minutes * 60:
        return False
    mine, theirs = facts.accounts, partition.accounts
    if theirs is not None and mine is not None and not set(theirs) & set(mine):
        return False
    return partition.nodes >= plan.nodes and partition.gpus_per_node >= plan.gpus_per_node


def _seconds(sooner: str, later: str) -> float:
    try:
        return (datetime.fromisoformat(later) - datetime.fromisoformat(sooner)).total_seconds()
    except ValueError:
        return 0.0
