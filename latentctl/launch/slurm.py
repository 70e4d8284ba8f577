"""The Slurm executor: plans become batch jobs, handles become facts. Keeps no state; see SLURM.md."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentctl.errors import Exit, Problem, UserError
from latentctl.launch import slurm_parse, slurm_words
from latentctl.launch.protocol import Batch, Fact, Handle
from latentctl.launch.slurm_client import Refused, SlurmClient, SlurmError, grouped
from latentctl.launch.slurm_parse import JobRow
from latentctl.plan.facts import ClusterFacts
from latentctl.record import ledger
from latentctl.record.journal import Journal, read
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.record.states import TERMINAL, fold

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile

NAME = "slurm"
_VAGUE = (None, "PartitionConfig")
"""What squeue says before the scheduler has looked closely."""
_SKEW = timedelta(minutes=1)
"""Between the clocks of this machine and the controller's. An earlier run may have had the name."""
_MORE_LOOKS, _LOOK_S = 3, 0.3


class SlurmExecutor:
    """See `launch.protocol.Executor`."""

    def __init__(self, profile: ClusterProfile) -> None:
        self.profile = profile
        self.client = SlurmClient(conf=profile.env.get("SLURM_CONF"))

    def preview(self, run: RunPaths, plan: Plan, job: JobPlan) -> str:
        """The batch script as sbatch would get it; the ids of parents stand as `<name>`. Asks no Slurm."""
        from latentctl.launch.slurm_script import Target, submission

        parents = [f"<{name}>" for name in job.after]
        target = Target.of_run(run, job.name)
        return submission(target, plan, job, profile=self.profile, client=self.client, after=parents).text()

    def submit(self, run: RunPaths, plan: Plan) -> list[Handle]:
        jobs = ledger.unfinished(run, plan)
        self.client.ping()
        journal = Journal(run.journal)
        done: list[Handle] = []
        try:
            for job in jobs:
                done.append(self._submit(run, plan, job, journal, {h.job: h.id for h in done}))
        except BaseException as error:
            self._take_back([(run, handle) for handle in done], error)
            raise
        return done

    def submit_all(self, runs: Sequence[tuple[RunPaths, Plan]], batch: Batch) -> list[Handle]:
        from latentctl.launch import arrays

        self.client.ping()
        sets = arrays.alike(runs, self.client.max_array_size() or arrays.SIZE)
        submitted = arrays.submit(sets, batch, profile=self.profile, client=self.client, name=NAME)
        owners = (one.members for one in sets for _ in one.jobs)
        done: list[tuple[RunPaths, Handle]] = []
        try:
            for members, handles in zip(owners, submitted, strict=True):
                done += [(run, handle) for (run, _), handle in zip(members, handles, strict=True)]
        except BaseException as error:
            self._take_back(done, error)
            raise
        return [handle for _, handle in done]

    def _take_back(self, done: Sequence[tuple[RunPaths, Handle]], error: BaseException) -> None:
        """What was accepted before `error`. Raises an error with both where that fails, too."""
        if left := self._withdraw(done):
            told = error.problems if isinstance(error, UserError) else []
            raise UserError(problems=[*told, left], code=Exit.CLUSTER, kind="cluster") from error

    def _submit(
        self, run: RunPaths, plan: Plan, job: JobPlan, journal: Journal, ids: dict[str, str]
    ) -> Handle:
        from latentctl.launch.slurm_script import Target, submission

        after = [ids[name] for name in job.after if name in ids]  # the others have their result already
        target = Target.of_run(run, job.name)
        prepared = submission(target, plan, job, profile=self.profile, client=self.client, after=after)
        attempt = ledger.submitting(run, {job.name: {"name": target.name}})[job.name]
        try:
            slurm_id = prepared.send()
        except Refused as error:
            facts = self.facts_or_none()
            raise slurm_words.refusal(error.said, job=job, profile=self.profile, facts=facts) from None
        except BaseException:  # Ctrl-C too: what Slurm took without our hearing of it must not run
            with contextlib.suppress(SlurmError):
                self.client.cancel(self.client.named(target.name))
            raise
        ledger.submitted(journal, job.name, attempt, executor=NAME, id=slurm_id, name=target.name)
        return Handle(NAME, slurm_id, job.name, target.name)

    def _withdraw(self, done: Sequence[tuple[RunPaths, Handle]]) -> Problem | None:
        """All or nothing: cancel what was accepted before a refusal. Returns what could not be."""
        if not done:
            return None
        ids = [handle.id for _, handle in done]
        try:
            self.client.cancel(ids)
        except SlurmError as error:
            names = ", ".join(dict.fromkeys(handle.job for _, handle in done))
            text = f"{names}: accepted before, and could not be cancelled: {error.problems[0].message}"
            return Problem(text, hint=f"scancel {' '.join(grouped(ids))}")
        for run, handle in done:
            _, attempt, _ = fold(read(run.journal), handle.job)  # it may have started meanwhile
            Journal(run.journal).append(
                "cancelled", job=handle.job, attempt=attempt or None, why="a later job was refused"
            )
        return None

    def findings(self, handles: Sequence[Handle]) -> list[Problem]:
        """Accepted jobs that can never run as they are: asked right after `submit`.

        Silent where Slurm does not answer: the submission stands.
        """
        try:
            rows = self.client.live(h.id for h in handles)
            for _ in range(_MORE_LOOKS):
                if not any(r.state == "PENDING" and r.reason in _VAGUE for r in rows.values()):
                    break
                time.sleep(_LOOK_S)
                rows = self.client.live(h.id for h in handles)
        except SlurmError:
            return []
        waiting = [(h, rows[h.id]) for h in handles if h.id in rows and rows[h.id].state == "PENDING"]
        if not any(slurm_words.never_runs(r.reason, h) for h, r in waiting):
            return []
        facts = self.facts_or_none()
        allowed = facts and slurm_words.limits(self.profile, facts)
        found = [slurm_words.never_runs(row.reason, handle, allowed=allowed) for handle, row in waiting]
        return [p for p in found if p is not None]

    def query(self, handles: Sequence[Handle]) -> list[Fact]:
        """squeue for all, then sacct for those that the controller has forgotten. Raises Unreachable."""
        rows = self.client.live(h.id for h in handles)
        missing = [h.id for h in handles if not _ours(rows.get(h.id), h)]
        trouble: str | None = None
        if missing:
            try:
                rows.update(self.client.ended(missing))
            except SlurmError as error:
                trouble = f"accounting does not answer: {error}"
        return [_fact(h, rows.get(h.id), trouble) for h in handles]

    def recover(self, intents: Sequence[tuple[RunPaths, dict[str, Any]]]) -> None:
        """Submissions whose answer nobody wrote down, since the command was killed: what Slurm has of them is
        written down now. Two who do this at once say the same."""
        since = min(datetime.fromisoformat(event["time"]) for _, event in intents) - _SKEW
        found = self.client.named_since((event["name"] for _, event in intents), since)
        for run, event in intents:
            known = {slurm_parse.base(str(e["id"])) for e in read(run.journal) if e["event"] == "submitted"}
            ids = [job_id for job_id in found.get(event["name"], []) if job_id not in known]
            if not ids:
                continue
            element = event.get("element")
            more = {k: event[k] for k in ("name", "logs") if k in event}
            ledger.submitted(
                Journal(run.journal), event["job"], event.get("attempt"), executor=NAME,
                id=ids[-1] if element is None else f"{ids[-1]}_{element}", found=True, **more,
            )  # fmt: skip

    def cancel(self, run: RunPaths, handles: Sequence[Handle]) -> None:
        self.cancel_all([(run, handles)])

    def cancel_all(self, runs: Sequence[tuple[RunPaths, Sequence[Handle]]]) -> None:
        ids = [handle.id for _, handles in runs for handle in handles]
        if not ids:
            return
        self.client.ping()
        self.client.cancel(ids)
        for run, handles in runs:
            events = list(read(run.journal))
            for handle in handles:
                state, attempt, _ = fold(events, handle.job)
                if state not in TERMINAL:
                    Journal(run.journal).append(
                        "cancelled", job=handle.job, attempt=attempt or None, id=handle.id
                    )

    def scheduler_logs(self, run: RunPaths, job: JobPlan) -> list[Path]:
        """What Slurm and the entries wrote, oldest first; requeues append to the same files."""
        found = set(run.job(job.name).scheduler.glob("*_log.*"))
        for event in read(run.journal):  # of an array they lie together
            if event["event"] == "submitted" and event["job"] == job.name and "logs" in event:
                found.update(Path(event["logs"]).glob(f"{event['id']}_*_log.*"))
        return sorted(found, key=lambda p: p.stat().st_mtime)

    def facts(self) -> ClusterFacts:
        """The live cluster. Raises Unreachable."""
        return self.client.facts()

    def facts_or_none(self) -> ClusterFacts | None:
        try:
            return self.client.facts()
        except SlurmError:
            return None


def _ours(row: JobRow | None, handle: Handle) -> bool:
    """Ids start again after a wipe of the controller: a row with another name is another job.

    `allocation` is accounting's word for a job whose name it never got.
    """
    return row is not None and (handle.name is None or row.name in (handle.name, "allocation"))


def _fact(handle: Handle, row: JobRow | None, trouble: str | None) -> Fact:
    if row is None or not _ours(row, handle):
        other = None if row is None else f"job {handle.id} is now {row.name}"
        return Fact(handle, state=None, reason=other or trouble, source="")
    reason = row.reason
    if row.state == "PENDING" and (never := slurm_words.never_runs(reason, handle)):
        reason = never.message
    return Fact(
        handle,
        state=row.state,
        reason=reason,
        nodes=row.nodes,
        restarts=row.restarts,
        exit=row.exit,
        source=row.source,
    )
