"""Nodes that are left out for a while, because a job failed on them by their fault: one line each in
`excluded-nodes.jsonl` of the runs folder, which login and compute nodes share."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

_FILE = "excluded-nodes.jsonl"


def exclude(runs_dir: Path, cluster: str, node: str, *, seconds: float, run: str, rule: str | None) -> None:
    """Leave `node` out of what is submitted to `cluster` from now on, for so long."""
    row = {"cluster": cluster, "node": node, "until": time.time() + seconds, "run": run, "rule": rule}
    line = json.dumps(row).encode() + b"\n"
    fd = os.open(runs_dir / _FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def excluded(runs_dir: Path, cluster: str) -> dict[str, dict[str, Any]]:
    """Node -> the line that leaves it out longest; expired ones aside. Torn lines are passed over."""
    found: dict[str, dict[str, Any]] = {}
    try:
        lines = (runs_dir / _FILE).read_bytes().split(b"\n")
    except OSError:
        return found
    for line in lines:
        try:
            row = json.loads(line)
            node, until, whose = str(row["node"]), float(row["until"]), row["cluster"]
        except (ValueError, TypeError, KeyError):
            continue
        if whose == cluster and until > time.time() and until > found.get(node, {"until": 0})["until"]:
            found[node] = row
    return found
