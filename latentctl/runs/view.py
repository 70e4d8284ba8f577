"""A run as it stands, read from its files: light enough for `status`, complete enough for `show`. No
pydantic."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from latentctl.record import ledger
from latentctl.record.atomic import try_read_json
from latentctl.record.attempt import lengths
from latentctl.record.journal import boot_id, process_start, read
from latentctl.record.paths import JobPaths, RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.record.states import TERMINAL, JobState, fold, worst
from latentctl.runs.reconcile import Evidence, FactLike, judge

_FORGOTTEN_S = 7 * 86400.0
"""Slurm keeps ended jobs for MinJobAge, 300 s unless a site says otherwise; only these can be queued
again."""


@dataclass(frozen=True)
class AttemptView:
    """One start of a job, from attempt.json and end.json."""

    number: int
    started: str | None
    ended: str | None
    exit: str | None
    """None: it runs, or it ended without a word."""
    kind: str | None
    message: str | None
    evidence: list[str]
    rank: int | None
    hint: str | None
    rule: str | None
    """The rule for failures that knew it."""
    host: str | None
    id: str | None
    seconds: float | None = None

    def dump(self) -> dict[str, Any]:
        row = {**vars(self), "class": self.kind, "attempt": self.number}
        return {k: v for k, v in row.items() if k not in ("kind", "number")}


@dataclass(frozen=True)
class JobView:
    """A job's state, its why, and its progress."""

    plan: JobPlan
    state: JobState
    why: str | None
    attempt: int
    attempts: list[AttemptView]
    heartbeat: dict[str, Any] | None
    handle: dict[str, Any] | None
    """The `submitted` event: executor, id."""
    events: list[dict[str, Any]] = field(repr=False)
    result: dict[str, Any] | None = field(default=None, repr=False)
    """result.json, once the job has succeeded."""
    fact: FactLike | None = None

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def failure(self) -> AttemptView | None:
        """The attempt whose end made the job fail."""
        if self.state not in ("failed", "unknown", "lost"):
            return None
        ended = [a for a in self.attempts if a.exit not in (None, "succeeded", "requeued", "retried")]
        return ended[-1] if ended else None

    @property
    def gpu_hours(self) -> float:
        """Used so far: GPUs × the time of each attempt."""
        gpus = self.plan.nodes * self.plan.gpus_per_node
        return gpus * sum(a.seconds or 0 for a in self.attempts) / 3600

    def dump(self) -> dict[str, Any]:
        """For `--json`."""
        beat = self.heartbeat or {}
        return {
            "job": self.name,
            "state": self.state,
            "why": self.why,
            "attempt": self.attempt,
            "stages": self.plan.stages,
            "after": self.plan.after,
            "stage": beat.get("stage"),
            "step": beat.get("step"),
            "total": beat.get("total"),
            "unit": beat.get("unit"),
            "rate": beat.get("rate"),
            "eta_s": beat.get("eta_s") if self.state == "running" else None,
            "metrics": beat.get("metrics"),
            "scheduler_id": (self.handle or {}).get("id"),
            "failure": self.failure.dump() if self.failure else None,
        }


class GpuHours(NamedTuple):
    """GPUs × time."""

    used: float
    """So far, by all attempts."""
    asked: float
    """By one attempt of each job, for its whole time limit."""


@dataclass(frozen=True)
class RunView:
    """A run and its jobs."""

    run: RunPaths
    plan: Plan
    jobs: list[JobView]
    created: float
    """Seconds since the epoch."""

    @property
    def state(self) -> JobState:
        return worst(self.states)

    @property
    def states(self) -> list[JobState]:
        """Of its jobs."""
        return [j.state for j in self.jobs]

    @property
    def gpu_hours(self) -> GpuHours:
        """Of all its jobs."""
        return GpuHours(sum(j.gpu_hours for j in self.jobs), sum(j.gpu_hours for j in self.plan.jobs))

    @property
    def done(self) -> bool:
        """Nothing goes on any more."""
        return all(j.state in TERMINAL or j.state == "unknown" for j in self.jobs)

    def dump(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "run": self.run.id,
            "state": self.state,
            "cluster": self.plan.cluster.get("name"),
            "path": str(self.run.root),
            "created": datetime.fromtimestamp(self.created).astimezone().isoformat(timespec="seconds"),
            "jobs": [j.dump() for j in self.jobs],
        }


Facts = Mapping[tuple[str, str, str], FactLike]
"""(run id, job, scheduler id) -> what the scheduler says."""


def load(run: RunPaths, facts: Facts | None = None, unanswered: str | None = None) -> RunView:
    """Read a run. `facts` are the scheduler's words, asked before this is called: a job that ends in
    between is then seen as ended. Raises ValueError where a file was damaged."""
    plan = Plan.load(run.plan)
    by_job: dict[str, list[dict[str, Any]]] = {j.name: [] for j in plan.jobs}
    for event in read(run.journal):
        if event.get("job") in by_job:
            by_job[event["job"]].append(event)
    jobs: list[JobView] = []
    for job in plan.jobs:
        states: dict[str, JobState] = {v.name: v.state for v in jobs}
        parents: dict[str, JobState] = {name: states[name] for name in job.after if name in states}
        jobs.append(_job(run, job, by_job[job.name], facts, unanswered, parents))
    return RunView(run, plan, jobs, run.plan.stat().st_mtime)


def asked_of_scheduler(view: RunView) -> Iterable[JobView]:
    """The jobs whose state the scheduler has a say in."""
    return (j for j in view.jobs if j.handle and j.state != "succeeded" and not _settled(j))


def _settled(job: JobView) -> bool:
    """An end in the journal stands; only a failed or lost job of Slurm might have been queued again by hand,
    as long as Slurm still knows of it."""
    if job.state in ("failed", "lost") and (job.handle or {}).get("executor") != "local":
        last = max((event["time"] for event in job.events), default=None)
        return last is not None and _since(last) > _FORGOTTEN_S
    return job.state in TERMINAL


def _job(
    run: RunPaths,
    job: JobPlan,
    events: list[dict[str, Any]],
    facts: Facts | None,
    unanswered: str | None,
    parents: Mapping[str, JobState],
) -> JobView:
    paths = run.job(job.name)
    state, attempt, _ = fold(events, job.name)
    result = try_read_json(paths.result)
    finished = result.get("attempt") if result else None
    found = [_attempt(paths, a.number, finished) for a in paths.attempts()]
    seconds = lengths([(a.started, a.ended) for a in found])
    attempts = [replace(a, seconds=s) for a, s in zip(found, seconds, strict=True)]
    attempt = max([attempt, *(a.number for a in attempts)])
    handle = ledger.last_submission(events, job.name)
    heartbeat = try_read_json(paths.heartbeat)
    fact = facts.get((run.id, job.name, str(handle["id"]))) if facts and handle else None
    mine = heartbeat if heartbeat and heartbeat.get("attempt") == attempt else None
    verdict = judge(
        Evidence(
            journal=state,
            attempt=attempt,
            submitted=handle is not None,
            result_attempt=result.get("attempt", 0) if result else None,
            heartbeat_age=_age(mine),
            worker_alive=_alive(try_read_json(paths.attempt(attempt).info) or {}),
            fact=fact,
            unanswered=unanswered,
            parents=parents,
        )
    )
    return JobView(
        job, verdict.state, verdict.why, attempt, attempts, heartbeat, handle, events, result, fact
    )


def _attempt(paths: JobPaths, number: int, finished: int | None) -> AttemptView:
    """`finished`: whose the job's result is; that attempt's end may be written a moment later."""
    at = paths.attempt(number)
    info = try_read_json(at.info) or {}
    end = try_read_json(at.end) or {}
    return AttemptView(
        number=number,
        started=info.get("time"),
        ended=end.get("time"),
        exit=end.get("exit", "succeeded" if number == finished else None),
        kind=end.get("class"),
        message=end.get("message"),
        evidence=list(end.get("evidence") or []),
        rank=end.get("rank"),
        hint=end.get("hint"),
        rule=end.get("rule"),
        host=info.get("host"),
        id=info.get("id"),
    )


def _age(heartbeat: dict[str, Any] | None) -> float | None:
    """Seconds since the last heartbeat."""
    if not heartbeat or not heartbeat.get("time"):
        return None
    return _since(heartbeat["time"])


def _since(moment: str) -> float:
    """Seconds."""
    return max(0.0, time.time() - datetime.fromisoformat(moment).timestamp())


def _alive(info: dict[str, Any]) -> bool | None:
    """Whether the entry of rank 0 of an attempt still runs. None: on another machine, or not told."""
    if info.get("host") != socket.gethostname() or not info.get("pid"):
        return None
    return info.get("boot") == boot_id() and process_start(int(info["pid"])) == info.get("start")
