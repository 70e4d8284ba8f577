"""What follows the failure of an attempt, by the rules of its run. Standard library alone: the entry asks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from latentctl.faults.policy import decide
from latentctl.faults.rules import Rules
from latentctl.launch.ranks import Place
from latentctl.launch.verdict import End, RankExit
from latentctl.record.adjust import halve_micro_batches
from latentctl.record.atomic import try_read_json
from latentctl.record.attempt import lengths
from latentctl.record.nodes import exclude, excluded
from latentctl.record.paths import AttemptPaths, JobPaths, RunPaths
from latentctl.record.plan import JobPlan, Plan


@dataclass(frozen=True)
class Sequel:
    """Of one job, as rank 0 of an attempt sees it."""

    run: RunPaths
    plan: Plan
    job: JobPlan
    place: Place

    def after(self, attempt: AttemptPaths, end: End) -> End:
        """The end as it is, or `retried` where the rules start the job again; what that needs is written
        down: smaller micro-batches, a node that is left out. Raises OSError."""
        if end.exit != "failed" or not self.run.faults.exists():
            return end
        rules = Rules.load(self.run.faults)
        job = self.run.job(self.job.name)
        lines = [end.message or "", *end.evidence]
        before = endings(job, attempt.number)["retried"]
        decision = decide(rules, kind=end.kind, rule=end.rule, lines=lines, before=before)
        end = replace(end, rule=end.rule or (decision.rule and decision.rule.name))
        if decision.rule is not None and end.kind == "unknown":  # its worker could not say
            end = replace(end, kind=decision.rule.kind, hint=end.hint or decision.rule.hint)
        words = decision.words
        if decision.again and (why := spent(self.plan, self.job, job, attempt)):
            decision = replace(decision, action="stop")
            words = f"not started again: {why}"
        if decision.again and decision.action == "smaller_micro_batch":
            smaller = halve_micro_batches(job, self._stages())
            if not smaller:
                return end
            words += ": " + ", ".join(f"{stage} {rows}" for stage, rows in smaller.items())
        if decision.again and decision.action == "requeue_elsewhere" and self.place.scheduler == "slurm":
            node = self._node_of(attempt, end)
            if node is not None and (why := self._none_left(node)):
                decision = replace(decision, action="stop")
                words = f"not started again: {why}"
            elif node is not None:
                words += self._leave_out(node, end, rules.exclude_s)
        message = f"{end.message}; {words}" if words else end.message
        how = "retried" if decision.again else end.exit
        return replace(end, exit=how, message=message, wait=decision.wait)

    def _node_of(self, attempt: AttemptPaths, end: End) -> str | None:
        """Of the rank that failed; None: it is not known."""
        said = RankExit.load(attempt, end.rank) if end.rank else None
        if said is not None and said.host is not None:
            return said.host
        return self.place.host if end.rank == 0 or self.place.nodes == 1 else None

    def _none_left(self, node: str) -> str | None:
        """In words, where without this node, too, the partition has too few for the job."""
        from latentctl.launch.slurm_client import SlurmClient, SlurmError

        try:
            there = set(SlurmClient().nodes_of(os.environ.get("SLURM_JOB_PARTITION", "")))
        except SlurmError:
            return None
        out = ({node} | set(excluded(self.run.root.parent, self.plan.cluster["name"]))) & there
        if not there or len(there - out) >= self.job.nodes:
            return None
        return (
            f"{len(out)} of the {len(there)} nodes of its partition are left out for their faults "
            f"({', '.join(sorted(out)[:8])}), and it needs {self.job.nodes}"
        )

    def _leave_out(self, node: str, end: End, seconds: float) -> str:
        """Leave it out, here and in what is submitted from now on; in words."""
        runs, cluster = self.run.root.parent, self.plan.cluster["name"]
        try:
            exclude(runs, cluster, node, seconds=seconds, run=self.run.id, rule=end.rule)
        except OSError as error:  # the job starts again all the same
            return f"; {node} could not be left out: {error.strerror}"
        return f"; {node} is left out for {seconds / 3600:g} h"

    def _stages(self) -> list[dict[str, Any]]:
        """This job's, as in spec.json."""
        spec = (try_read_json(self.run.spec) or {}).get("experiment") or {}
        return [stage for stage in spec.get("stages", []) if stage["name"] in self.job.stages]


def left_out(run: RunPaths, plan: Plan) -> list[str]:
    """Nodes on which a job of the run must not start again; with the profile's own where there are any."""
    found = excluded(run.root.parent, plan.cluster["name"])
    said = plan.cluster.get("sbatch", {}).get("exclude")
    return [*([str(said)] if said and found else []), *sorted(found)]


def endings(job: JobPaths, number: int) -> Counter[str]:
    """How the attempts right before `number` ended that did not end the job: `requeued` by us, `retried`
    after a failure; `preempted` by the scheduler, also where they left no word."""
    return Counter(how for _, how in _chain(job, number))


def no_more(plan: Plan, job: JobPlan, paths: JobPaths, attempt: AttemptPaths) -> str | None:
    """Why the job may not be requeued after this attempt: it was so often enough, or has used up its
    GPU-hours. None: it may."""
    before = endings(paths, attempt.number)
    if before.total() - before["retried"] >= int(plan.cluster.get("max_requeues", 20)):
        return "it was requeued as often as allowed"
    return spent(plan, job, paths, attempt)


def spent(plan: Plan, job: JobPlan, paths: JobPaths, attempt: AttemptPaths) -> str | None:
    """In words, where the attempts up to this one have used the GPU-hours that the profile allows a job."""
    allowed = plan.cluster.get("max_gpu_hours")
    if allowed is None:
        return None
    chain = [attempt, *(before for before, _ in _chain(paths, attempt.number))]
    marks = [
        ((try_read_json(a.info) or {}).get("time"), (try_read_json(a.end) or {}).get("time")) for a in chain
    ]
    seconds = sum(s or 0.0 for s in lengths(marks[::-1]))
    used = job.nodes * job.gpus_per_node * seconds / 3600
    return f"it has used {used:.3g} of {allowed:g} GPU-hours" if used >= allowed else None


def _chain(job: JobPaths, number: int) -> Iterator[tuple[AttemptPaths, str]]:
    """The attempts right before `number` that did not end the job, newest first, and how they ended."""
    for paths in reversed(job.attempts()):
        if paths.number >= number:
            continue
        how = (try_read_json(paths.end) or {"exit": "preempted"})["exit"]
        if how not in ("requeued", "preempted", "retried"):
            break
        yield paths, how
