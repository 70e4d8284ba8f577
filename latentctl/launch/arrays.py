"""The same job of many runs as one array of Slurm: few calls, however many points a sweep has.

Element i of a child waits for element i of its parent (`aftercorr`), so that a point that fails stops nobody
else. Runs whose jobs ask for other resources are arrays of their own, and so is what exceeds MaxArraySize.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latentctl.launch import slurm_words
from latentctl.launch.protocol import Batch, Handle
from latentctl.launch.slurm_client import Refused, SlurmClient, SlurmError
from latentctl.launch.slurm_script import Target, submission
from latentctl.record import ledger
from latentctl.record.atomic import write_text
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
        key = json.dumps([str(code), *map(asdict, jobs)])
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
        ids: dict[str, str] = {}
        for job in one.jobs:
            target = Target(
                name=f"{batch.name}/{job.name}-{one.digest}",
                what=f"@{listed}",
                root=batch.folder.parents[1],
                code=one.code,
                folder=batch.folder / "scheduler",
                runs=batch.folder.parents[1],
                count=len(one.members),
                parallel=parallel,
            )
            after = [ids[parent] for parent in job.after if parent in ids]
            handles = _array(one, job, target, after, profile=profile, client=client, name=name)
            ids[job.name] = handles[0].id.partition("_")[0]
            yield handles


def _array(
    one: Alike,
    job: JobPlan,
    target: Target,
    after: Sequence[str],
    *,
    profile: ClusterProfile,
    client: SlurmClient,
    name: str,
) -> list[Handle]:
    prepared = submission(target, one.members[0][1], job, profile=profile, client=client, after=after)
    journals = [Journal(run.journal) for run, _ in one.members]
    attempts = [
        ledger.submitting(run, journal, job.name, name=target.name, element=i)
        for i, ((run, _), journal) in enumerate(zip(one.members, journals, strict=True))
    ]
    try:
        array = prepared.send()
    except Refused as error:
        with contextlib.suppress(SlurmError):
            raise slurm_words.refusal(error.said, job=job, profile=profile, facts=client.facts()) from None
        raise slurm_words.refusal(error.said, job=job, profile=profile, facts=None) from None
    except BaseException:  # Ctrl-C too: what Slurm took without our hearing of it must not run
        with contextlib.suppress(SlurmError):
            client.cancel(client.named(target.name))
        raise
    for i, (journal, attempt) in enumerate(zip(journals, attempts, strict=True)):
        ledger.submitted(
            journal, job.name, attempt, executor=name, id=f"{array}_{i}", name=target.name,
            logs=str(target.folder),
        )  # fmt: skip
    return [Handle(name, f"{array}_{i}", job.name, target.name) for i in range(len(one.members))]
