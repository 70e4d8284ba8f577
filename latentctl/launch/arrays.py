"""The same job of many runs as one array of Slurm: few calls, however many points a sweep has.

Element i of a child waits for element i of its parent (`aftercorr`), so that a point that fails stops nobody
else. Runs whose jobs ask for other resources are arrays of their own, and so is what exceeds MaxArraySize.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latentctl.launch import slurm_words
from latentctl.launch.protocol import Batch, Handle
from latentctl.launch.slurm_client import Refused, SlurmClient, SlurmError
from latentctl.launch.slurm_script import Target, submission
from latentctl.record import ledger
from latentctl.record.atomic import together, write_text
from latentctl.record.journal import Journal
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile

SIZE = 1001
"""Slurm's own MaxArraySize where the cluster does not say."""


@dataclass(frozen=True)
class Alike:
    """Runs of which the same jobs are to be submitted, with the same resources and code."""

    members: list[tuple[RunPaths, Plan]]
    jobs: list[JobPlan]
    code: Path

    @property
    def digest(self) -> str:
        """Tells this set of runs from others."""
        return hashlib.sha256("\n".join(run.id for run, _ in self.members).encode()).hexdigest()[:8]


def alike(runs: Sequence[tuple[RunPaths, Plan]], size: int) -> list[Alike]:
    """The runs in sets of at most `size`; those that have nothing left to do are left out."""
    sets: dict[str, Alike] = {}
    for run, plan in runs:
        jobs = ledger.unfinished(run, plan)
        code = run.code.resolve()
        key = json.dumps([str(code), *map(vars, jobs)])
        sets.setdefault(key, Alike([], jobs, code)).members.append((run, plan))
    return [
        Alike(one.members[begin : begin + size], one.jobs, one.code)
        for one in sets.values()
        if one.jobs
        for begin in range(0, len(one.members), size)
    ]


def submit(
    sets: Sequence[Alike], batch: Batch, *, profile: ClusterProfile, client: SlurmClient, name: str
) -> Iterator[list[Handle]]:
    """One array after the other: the handles of its elements. Raises UserError; what was accepted before is
    the caller's to take back. `name` is the executor's."""
    parallel = None if batch.parallel is None else max(1, batch.parallel // max(1, len(sets)))
    for one in sets:
        listed = batch.folder / "arrays" / f"{one.digest}.txt"
        write_text(listed, "".join(f"{run.root}\n" for run, _ in one.members))
        targets = {
            job.name: Target(
                name=f"{batch.name}/{job.name}-{one.digest}",
                what=f"@{listed}",
                root=batch.folder.parents[1],
                code=one.code,
                folder=batch.folder / "scheduler",
                runs=batch.folder.parents[1],
                count=len(one.members),
                parallel=parallel,
            )
            for job in one.jobs
        }
        logs = str(batch.folder / "scheduler")
        with together(batch.folder):
            attempts = [
                ledger.submitting(
                    run, {job: {"name": t.name, "element": i, "logs": logs} for job, t in targets.items()}
                )
                for i, (run, _) in enumerate(one.members)
            ]
        ids: dict[str, str] = {}
        for job in one.jobs:
            target = targets[job.name]
            after = [ids[parent] for parent in job.after if parent in ids]
            array = ids[job.name] = _send(one, job, target, after, profile=profile, client=client)
            with together(batch.folder):
                for i, (run, _) in enumerate(one.members):
                    ledger.submitted(
                        Journal(run.journal), job.name, attempts[i][job.name], executor=name,
                        id=f"{array}_{i}", name=target.name, logs=str(target.folder),
                    )  # fmt: skip
            yield [Handle(name, f"{array}_{i}", job.name, target.name) for i in range(len(one.members))]


def _send(
    one: Alike,
    job: JobPlan,
    target: Target,
    after: Sequence[str],
    *,
    profile: ClusterProfile,
    client: SlurmClient,
) -> str:
    """The array's id. Raises UserError."""
    prepared = submission(target, one.members[0][1], job, profile=profile, client=client, after=after)
    try:
        return prepared.send()
    except Refused as error:
        facts = None
        with contextlib.suppress(SlurmError):
            facts = client.facts()
        raise slurm_words.refusal(error.said, job=job, profile=profile, facts=facts) from None
    except BaseException:  # Ctrl-C too: what Slurm took without our hearing of it must not run
        with contextlib.suppress(SlurmError):
            client.cancel(client.named(target.name))
        raise
