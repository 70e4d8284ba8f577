"""How far a job is, in one line."""

from __future__ import annotations

from typing import Any

from latentctl.report.text import duration, number, percent
from latentctl.runs.view import JobView, RunView

_FIRST = ("accuracy", "reward", "val_accuracy", "loss")
"""Which of several metrics says most."""


def metric(beat: dict[str, Any] | None) -> str:
    """The metric that says most, as `loss 0.231`."""
    metrics = (beat or {}).get("metrics") or {}
    name = next((m for m in _FIRST if metrics.get(m) is not None), next(iter(metrics), None))
    return f"{name} {number(metrics[name])}" if name is not None and metrics[name] is not None else ""


def outcome(job: JobView) -> str:
    """What a finished job came to: its last accuracy, else its last loss."""
    stages = ((job.result or {}).get("stages") or {}).values() if job.state == "succeeded" else ()
    for numbers in reversed([s for s in stages if s]):
        if numbers.get("accuracy") is not None:
            return f"accuracy {percent(numbers['accuracy'])} %"
        if numbers.get("loss") is not None:
            return f"loss {number(float(numbers['loss']))}"
    return ""


def steps(job: JobView) -> str:
    """`120/700`; empty before the first."""
    beat = job.heartbeat or {}
    if beat.get("step") is None or job.state in ("planned", "succeeded"):
        return ""
    total = beat.get("total")
    return f"{beat['step']}/{total}" if total is not None else str(beat["step"])


def eta(job: JobView) -> str:
    """Time left of the stage that runs."""
    seconds = (job.heartbeat or {}).get("eta_s")
    return duration(seconds) if job.state == "running" and seconds is not None else ""


def current(view: RunView) -> JobView:
    """The job to look at: the one that failed, else one that runs, else the first that has not succeeded."""
    for wanted in (("failed", "lost", "unknown"), ("running",), ("pending", "submitted", "planned")):
        found = next((j for j in view.jobs if j.state in wanted), None)
        if found is not None:
            return found
    return next((j for j in view.jobs if j.state != "succeeded"), view.jobs[-1])


def stage(job: JobView) -> str:
    """The stage that the job is at, or its name."""
    at = (job.heartbeat or {}).get("stage")
    return str(at) if at and job.state == "running" else job.name


def line(job: JobView) -> str:
    """`running  cot  120/150  12.3 step/s  3s left  loss 0.23`."""
    beat = job.heartbeat or {}
    rate = beat.get("rate")
    parts = [
        job.state,
        stage(job),
        steps(job),
        f"{number(float(rate))} {beat.get('unit') or 'step'}/s" if rate and job.state == "running" else "",
        f"{eta(job)} left" if eta(job) else "",
        metric(beat) if job.state == "running" else outcome(job),
        f"attempt {job.attempt}" if job.attempt > 1 else "",
        f"({job.why})" if job.why else "",
    ]
    return "  ".join(p for p in parts if p)
