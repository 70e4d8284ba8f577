"""Stands in for the interpreter of a cluster profile: does a job's work in the shape of results, without
torch.

Called as `standin_python.py -m jobs.worker RUN_DIR JOB ATTEMPT`. STANDIN in the environment says how each
attempt goes: comma-separated `ok`, `fail`, `slow` (beats until it is killed), the last one for all later
attempts.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    tmp.write_text(json.dumps(value))
    tmp.rename(path)


def beat(job: Path, attempt: int, stage: str, step: int) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    row = {
        "stage": stage,
        "step": step,
        "total": 100,
        "unit": "step",
        "rate": 2.0,
        "eta_s": 9.0,
        "metrics": {"loss": 0.5},
        "time": now,
        "attempt": attempt,
        "pid": os.getpid(),
        "host": socket.gethostname(),
    }
    write(job / "heartbeat.json", row)
    with open(job / "metrics.jsonl", "a") as f:
        f.write(json.dumps({"stage": stage, "step": step, "loss": 1 / (1 + step), "attempt": attempt}) + "\n")


def main() -> int:
    root, name, number = Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])
    job = root / "jobs" / name
    behave = os.environ.get("STANDIN", "ok").split(",")
    how = behave[min(number, len(behave)) - 1]
    plan = json.loads((root / "plan.json").read_text())
    stages = next(j["stages"] for j in plan["jobs"] if j["name"] == name)
    print(f"worker of attempt {number}: {how}", flush=True)
    if how == "fail":
        print("Traceback: the stand-in broke", file=sys.stderr, flush=True)
        failure = {
            "class": "data",
            "message": "row 7 is broken",
            "evidence": ["ValueError: row 7"],
            "rank": 0,
            "time": "",
            "primary": True,
            "hint": "mend row 7",
        }
        write(job / "attempts" / str(number) / "failure-00000.json", failure)
        return 1
    results = {}
    for stage in stages:
        for step in range(1, 100_000 if how == "slow" else 4):
            beat(job, number, stage, step)
            time.sleep(0.05)
        results[stage] = {
            "stage": stage,
            "method": "eval",
            "accuracy": 0.75,
            "accuracy_ci": [0.6, 0.85],
            "n": 4,
        }
        write(job / "stages" / stage / "result.json", results[stage])
    write(job / "result.json", {"attempt": number, "stages": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
