"""How an attempt ended, judged from what its ranks left behind."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from latentctl.record.atomic import try_read_json, write_json
from latentctl.record.journal import Journal, now
from latentctl.record.paths import AttemptPaths, JobPaths
from latentctl.record.plan import EXIT_REQUEUE
from latentctl.record.states import AttemptEnd

TAIL_LINES = 12
TAIL_BYTES = 8192


@dataclass(frozen=True)
class RankExit:
    """`exit-<rank>.json`: how one worker ended."""

    rank: int
    code: int | None
    """None: it could not be started."""
    stopped: str | None
    """Why its entry killed it; None where it ended by itself.

    `peer`: another rank failed. `grace`: too slow to checkpoint. `again`: a second TERM.
    """
    signals: list[str]
    """What its entry was sent: USR2, TERM."""
    host: str | None = None
    """The node on which it ran."""
    time: str = field(default_factory=now)

    def save(self, attempt: AttemptPaths) -> None:
        write_json(attempt.rank_exit(self.rank), asdict(self))

    @staticmethod
    def load(attempt: AttemptPaths, rank: int) -> RankExit | None:
        raw = try_read_json(attempt.rank_exit(rank))
        return RankExit(**raw) if raw is not None else None


@dataclass(frozen=True)
class End:
    """`end.json`."""

    exit: AttemptEnd
    kind: str | None = None
    """Class of the failure."""
    message: str | None = None
    evidence: list[str] = field(default_factory=list)
    rank: int | None = None
    hint: str | None = None
    rule: str | None = None
    """The rule for failures that knew it."""
    wait: float = 0.0
    """Of `retried`: seconds before the next attempt may start."""

    @property
    def event(self) -> str:
        """The word for the journal. `interrupted` decides nothing: the scheduler that sent the TERM does."""
        words = {"timed_out": "failed", "preempted": "interrupted", "retried": "requeued"}
        return words.get(self.exit, self.exit)

    def save(self, attempt: AttemptPaths) -> None:
        row = {"exit": self.exit, **self._said(), "attempt": attempt.number, "time": now()}
        if self.wait:
            row["wait_s"] = self.wait
        write_json(attempt.end, row)

    @staticmethod
    def load(attempt: AttemptPaths) -> End | None:
        raw = try_read_json(attempt.end)
        if raw is None:
            return None
        said = raw["class"], raw["message"], raw["evidence"], raw["rank"], raw["hint"], raw.get("rule")
        return End(raw["exit"], *said, wait=raw.get("wait_s", 0.0))

    def announce(self, journal: Journal, job: str, attempt: int) -> None:
        """Tell the journal."""
        said = {k: v for k, v in self._said().items() if v not in (None, [])}
        journal.append(self.event, job=job, attempt=attempt, **said)

    def _said(self) -> dict[str, Any]:
        return {
            "class": self.kind,
            "message": self.message,
            "evidence": self.evidence,
            "rank": self.rank,
            "hint": self.hint,
            "rule": self.rule,
        }


def failed(kind: str, message: str, *, hint: str | None = None, evidence: list[str] | None = None) -> End:
    return End("failed", kind, message, evidence or [], hint=hint)


def judge(
    job: JobPaths,
    attempt: AttemptPaths,
    exits: Mapping[int, RankExit],
    *,
    size: int,
    no_more: str | None,
    lead: float,
) -> End:
    """The end of an attempt of `size` ranks from their exits and failure files.

    The job's result decides: it is written when every rank has done its work, so that what happens to a rank
    afterwards does not matter. Then a failure wins, then a stop that came too late. `no_more` says why the
    job may not be started once more.
    """
    if succeeded(job, attempt):
        return End("succeeded")
    failure = first_failure(attempt)
    if failure is not None:
        return End("failed", failure.get("class"), failure.get("message"), failure.get("evidence") or [],
                   failure.get("rank"), failure.get("hint"), failure.get("rule"))  # fmt: skip
    told = {name for e in exits.values() for name in e.signals}
    if any(e.stopped in ("grace", "again") for e in exits.values()):
        return _too_slow(told, lead)
    if EXIT_REQUEUE in {e.code for e in exits.values()}:
        return wants_more(told, no_more)
    missing = sorted(set(range(size)) - set(exits))
    if missing:
        return failed("rank_lost", f"rank {_list(missing)} went away without a word",
                      hint="its node or its entry died; see the scheduler's log of the job")  # fmt: skip
    bad = next((e for e in exits.values() if e.code != 0), None)
    if bad is not None:  # its failure file could not be written
        return failed("unknown", f"the worker of rank {bad.rank} ended with exit code {bad.code}")
    return failed("no_result", "the workers ended with exit code 0 but the job has no result.json")


def _too_slow(told: set[str], lead: float) -> End:
    if "USR2" in told:
        text = f"stopped at the time limit: no checkpoint was committed within {lead:g} s of the signal"
        return End(
            "timed_out", "timeout", text, hint="raise signal_lead of the cluster profile or resources.time"
        )
    return End("preempted", "preemption", "stopped by SIGTERM before a checkpoint was committed")


def wants_more(told: set[str], no_more: str | None, *, how: str = "checkpointed") -> End:
    """Of a job that was `told` to stop, and did (`how`) what it could to go on later."""
    if told == {"TERM"}:
        # Whoever sent a bare TERM (scancel, requeue, shutdown) has decided what follows; a requeue of ours
        # would bring a cancelled job back.
        return End("preempted", "preemption", "stopped by SIGTERM after a checkpoint")
    if no_more is not None:
        text = f"wanted to go on after a checkpoint, but {no_more}"
        hint = "`latentctl retry` resumes it; max_requeues and max_gpu_hours of the profile are limits"
        return failed("requeue_limit", text, hint=hint)
    return End("requeued", message=f"{how}; wants more time")


def succeeded(job: JobPaths, attempt: AttemptPaths) -> bool:
    result = try_read_json(job.result)
    return result is not None and result.get("attempt") == attempt.number


def first_failure(attempt: AttemptPaths) -> dict[str, Any] | None:
    """The earliest failure that is not a consequence; the earliest of all where each looks like one.

    Earliest by the mtime of the files: they lie on one file system, so it is one clock.
    """
    found = []
    for path in attempt.failures():
        raw = try_read_json(path)
        if raw is not None:
            found.append((not raw.get("primary", True), path.stat().st_mtime_ns, path.name, raw))
    return min(found, key=lambda f: f[:3])[3] if found else None


def failed_elsewhere(attempt: AttemptPaths, rank: int) -> Literal["cause", "consequence"] | None:
    """Whether another rank failed. Of a mere consequence the cause may still be on its way to the disk."""
    found = [try_read_json(p) for p in attempt.failures() if p != attempt.failure(rank)]
    if not found:
        return None
    return "cause" if any(f and f.get("primary", True) for f in found) else "consequence"


def write_failure(attempt: AttemptPaths, rank: int, code: int) -> None:
    """Say why a worker ended, where it could not say so itself."""
    path = attempt.failure(rank)
    if path.exists():
        return
    kind, message, hint = _of_code(rank, code)
    save_failure(attempt, rank, kind=kind, message=message, hint=hint, evidence=tail(attempt.stderr(rank)))


def save_failure(
    attempt: AttemptPaths,
    rank: int,
    *,
    kind: str,
    message: str,
    hint: str | None,
    evidence: Sequence[str] = (),
) -> None:
    """`failure-<rank>.json` in the form that workers write."""
    record = {
        "class": kind,
        "message": message,
        "evidence": list(evidence),
        "rank": rank,
        "time": now(),
        "primary": True,
        "hint": hint,
    }
    write_json(attempt.failure(rank), record)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _of_code(rank: int, code: int) -> tuple[str, str, str | None]:
    if code >= 0:
        return "unknown", f"the worker of rank {rank} ended with exit code {code}", None
    name, hint = signal_name(-code), None
    if -code == signal.SIGKILL:
        hint = "often the machine's memory ran out: ask for more (resources.mem), or see the kernel's log"
    return "killed", f"the worker of rank {rank} was killed by {name}", hint


def tail(path: Path) -> list[str]:
    """The last lines of a log, progress bars reduced to what they last showed."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = f.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line[:400] for line in lines if line][-TAIL_LINES:]


def _list(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return shown if len(ranks) <= 8 else f"{shown} and {len(ranks) - 8} more"
