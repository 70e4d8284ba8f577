"""Weights & Biases beside a job: never in its way.

Everything that touches `wandb` (its import, its network, its errors, its exit hooks) happens in a process of
its own, `wandb_process.py`, fed through a bounded queue and a pipe. A row that finds the queue full is
dropped and counted. What was measured is in metrics.jsonl in any case.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import secrets
import subprocess
import sys
import threading
import time
from typing import Any

from latentctl.record.atomic import try_read_json, write_json
from latentctl.record.paths import JobPaths
from latentctl.spec.experiment import WandbSpec


class WandbSink:
    """Mirrors one job into one W&B run, the same across its attempts. For rank 0."""

    def __init__(
        self, spec: WandbSpec, *, run_id: str, job: JobPaths, config: dict[str, Any], capacity: int = 10_000
    ) -> None:
        """Returns at once; W&B is set up in the background."""
        self.dropped = 0
        self._queue: queue.Queue[Any] = queue.Queue(capacity)
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up = False
        self._start = {
            "project": spec.project,
            "entity": spec.entity,
            "tags": spec.tags or None,
            "mode": os.environ.get("WANDB_MODE") or spec.mode,
            "name": f"{run_id}/{job.name}",
            "group": run_id,
            "job_type": job.name,
            "dir": str(job.root),
            "config": config,
        }
        self._thread = threading.Thread(target=self._feed, args=(job, run_id), name="wandb", daemon=True)
        self._thread.start()

    def log(self, stage: str, step: int, values: dict[str, Any]) -> None:
        """Hand over a row. Never waits, never raises."""
        if self._given_up:
            return
        try:
            self._queue.put_nowait((stage, step, values))
        except queue.Full:
            self.dropped += 1

    def finish(self, timeout: float, code: int = 0) -> bool:
        """Let it send what is left, for at most `timeout` seconds. Returns whether it has it all.

        `code` is the worker's exit code: W&B shows by it whether the job finished, failed or was preempted.
        """
        end = time.monotonic() + timeout
        with contextlib.suppress(queue.Full):
            self._queue.put({"exit": code}, timeout=0 if self._given_up else timeout)
        self._thread.join(max(0.0, end - time.monotonic()))
        its_code = None
        if (process := self._process) is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                its_code = process.wait(max(0.0, end - time.monotonic()))
            if its_code is None:
                _note(f"still busy after {timeout:g} s, left behind; metrics.jsonl has every row")
                process.kill()
        if self.dropped:
            _note(f"{self.dropped} rows were dropped because it did not keep up; metrics.jsonl has every row")
        return its_code == 0 and not (self.dropped or self._given_up)

    def _feed(self, job: JobPaths, run_id: str) -> None:
        """The thread: starts the process and hands it rows until the end."""
        try:
            start = {**self._start, "id": wandb_id(job, run_id)}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jobs.runtime.wandb_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            pipe = self._process.stdin
            assert pipe is not None
            with pipe:
                item: Any = start
                while True:
                    pipe.write(json.dumps(item).encode() + b"\n")
                    pipe.flush()
                    if isinstance(item, dict) and "exit" in item:
                        break
                    item = self._queue.get()
        except Exception as exc:
            self._given_up = True
            if not isinstance(exc, BrokenPipeError):  # the process said why before it went
                _note(f"given up, the job goes on without it: {type(exc).__name__}: {exc}")


def wandb_id(job: JobPaths, run_id: str) -> str:
    """The id of this job's W&B run, made once and kept in `jobs/<job>/wandb.json` for later attempts.

    Run id and job say whose it is; the random end keeps two people's runs of one recipe apart in a shared
    project.
    """
    path = job.root / "wandb.json"
    if (kept := try_read_json(path)) is not None:
        return kept["id"]
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", f"{run_id}-{job.name}")
    made = f"{readable[:110]}-{secrets.token_hex(4)}"
    write_json(path, {"id": made})
    return made


def _note(message: str) -> None:
    print(f"wandb: {message}", file=sys.stderr, flush=True)
