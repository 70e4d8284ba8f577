"""Word of how a job ended, to the webhook of its cluster profile. Standard library alone: entries send it."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any

from latentctl.launch.verdict import End
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan

_TIMEOUT_S = 10.0
_MOST = 1500
"""Characters of a text; Discord takes 2,000."""


def tell(run: RunPaths, plan: Plan, job: str, attempt: int, end: End) -> None:
    """Send it where the profile wants to know. What goes wrong is a line on stderr, without the address."""
    said = plan.cluster.get("notify") or {}
    event = _event(run, plan, end)
    if event is None or said.get("webhook") is None or event not in said["on"]:
        return
    address = os.environ.get(said["webhook"])
    if not address:
        return _note(f"{said['webhook']} is not set")
    body = json.dumps(_body(run, job, attempt, end, event)).encode()
    try:
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()
    except (OSError, ValueError) as error:  # ValueError: no address at all; its text would show it
        _note(f"{error}" if isinstance(error, OSError) else f"{said['webhook']} holds no address")


def _event(run: RunPaths, plan: Plan, end: End) -> str | None:
    if end.exit in ("failed", "timed_out"):
        return "failed"
    if end.exit == "retried":
        return "retried"
    if end.exit == "succeeded" and all(run.job(j.name).result.exists() for j in plan.jobs):
        return "finished"
    return None


def _body(run: RunPaths, job: str, attempt: int, end: End, event: str) -> dict[str, Any]:
    """`text` is what Slack and Mattermost show, `content` what Discord does; the rest is for programs."""
    lines = [f"{run.id}: finished" if event == "finished" else f"{run.id}: job {job} {event}"]
    lines += [line for line in (end.message, end.hint and f"hint: {end.hint}") if line]
    lines.append(f"latentctl show {run.id}" if event == "finished" else f"latentctl explain {run.id}")
    text = "\n".join(lines)[:_MOST]
    return {
        "text": text,
        "content": text,
        "event": event,
        "run": run.id,
        "job": job,
        "attempt": attempt,
        "class": end.kind,
        "message": end.message,
        "evidence": end.evidence,
        "host": os.uname().nodename,
    }


def _note(why: str) -> None:
    print(f"latentctl: nobody was notified: {why}", file=sys.stderr, flush=True)
