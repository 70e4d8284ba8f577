"""`latentctl explain` in words: each job of a run, why it stands as it does, and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from latentctl.report.progress import line
from latentctl.report.show import attempts
from latentctl.report.text import clip, duration, paint
from latentctl.runs.outlook import Outlook
from latentctl.runs.view import AttemptView, JobView, RunView

_DO = {
    "user_error": "mend what it names, and submit again",
    "code": "an error of the program: the traceback is in the logs",
    "out_of_memory": "ask for more memory or less work, and submit again",
    "timeout": "ask for more time (resources.time), or a larger signal_lead",
    "requeue_limit": "ask for more time; max_requeues and max_gpu_hours of the profile are limits",
    "disk": "make room, then retry",
    "data": "see whether the file or the server is there, then retry",
    "node": "retry; a node that broke is left out for a while",
    "hang": "look at the stacks in still-<rank>.json of the attempt, then retry",
    "nccl": "see what each rank wrote last, then retry",
}
_EVIDENCE = 8


def explain_text(view: RunView, outlooks: Mapping[str, Outlook], *, colour: bool) -> str:
    """Every job of the run; those that succeeded in a line."""
    parts = [f"run {view.run.id}: {paint(view.state, view.state, colour=colour)}"]
    for job in view.jobs:
        parts.append(
            "\n".join([f"job {job.name}: {paint(line(job), job.state, colour=colour)}", *_of(job, outlooks)])
        )
    return "\n".join(parts)


def _of(job: JobView, outlooks: Mapping[str, Outlook]) -> list[str]:
    if job.state == "succeeded":
        return []
    found: list[str] = [f"  {job.why}"] if job.why else []
    if (outlook := outlooks.get(job.name)) is not None:
        found += _waiting(outlook)
    if job.state == "running":
        found += _running(job)
    if (failure := job.failure) is not None:
        found += _failed(failure)
    if len(job.attempts) > 1:
        found += [f"  {row}" for row in attempts(job).splitlines()]
    return found


def _waiting(outlook: Outlook) -> list[str]:
    if outlook.never:
        return [f"  it can never start as it is: {outlook.never}", f"  hint: {outlook.hint}"]
    found = [f"  {outlook.words}" + (f" ({outlook.reason})" if outlook.reason else "")]
    if outlook.start:
        found.append(f"  expected to start at {outlook.start}")
    found += [f"  sooner with {change.words}: {change.start}" for change in outlook.changes]
    return found + ([f"  hint: {outlook.hint}"] if outlook.hint else [])


def _running(job: JobView) -> list[str]:
    beat = job.heartbeat or {}
    left = beat.get("eta_s")
    where = job.attempts[-1].host if job.attempts else None
    words = f"attempt {job.attempt}" + (f" on {where}" if where else "")
    return [f"  {words}" + (f", {duration(left)} left" if left is not None else "")]


def _failed(end: AttemptView) -> list[str]:
    rule = f", rule {end.rule}" if end.rule else ""
    who = f"rank {end.rank} of " if end.rank is not None else ""
    where = f" on {end.host}" if end.host else ""
    found = [f"  {who}attempt {end.number}{where}: {end.kind or 'unknown'}{rule}"]
    found += [clip(f"  {end.message}", 120)] if end.message else []
    found += [clip(f"  | {text}", 120) for text in end.evidence[-_EVIDENCE:]]
    found += [f"  hint: {end.hint}"] if end.hint else []
    return [*found, f"  next: {_DO.get(end.kind or '', 'see the logs, then retry')}"]
