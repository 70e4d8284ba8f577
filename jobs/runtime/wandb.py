"""Weights & Biases beside a job: never in its way.

Everything that touches `wandb` (its import, its network, its errors) happens in one daemon thread behind a
bounded queue. A row that finds the queue full is dropped and counted; the first error is noted and ends the
mirror, not the job. What was measured is in metrics.jsonl in any case.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import re
import secrets
import sys
import threading
import time
from typing import Any

from latentctl.record.atomic import try_read_json, write_json
from latentctl.record.paths import JobPaths
from latentctl.spec.experiment import WandbSpec

_INIT_TIMEOUT_S = 90
_END = object()


class WandbSink:
    """Mirrors one job into one W&B run, the same across its attempts. For rank 0."""

    def __init__(
        self, spec: WandbSpec, *, run_id: str, job: JobPaths, config: dict[str, Any], capacity: int = 10_000
    ) -> None:
        """Returns at once; W&B is set up in the background."""
        self.dropped = 0
        self._spec = spec
        self._job = job
        self._run_id = run_id
        self._config = config
        self._queue: queue.Queue[Any] = queue.Queue(capacity)
        self._given_up = False
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, stage: str, step: int, values: dict[str, Any]) -> None:
        """Hand over a row. Never waits, never raises."""
        if self._given_up:
            return
        try:
            self._queue.put_nowait((stage, step, values))
        except queue.Full:
            self.dropped += 1

    def finish(self, timeout: float) -> bool:
        """Send what is left, for at most `timeout` seconds. Returns whether W&B has it all."""
        end = time.monotonic() + timeout
        with contextlib.suppress(queue.Full):  # it hangs; said below
            self._queue.put(_END, timeout=0 if self._given_up else timeout)
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            _note(f"still busy after {timeout:g} s, left behind with {self._queue.qsize()} rows")
        if self.dropped:
            _note(f"{self.dropped} rows were dropped because it did not keep up; metrics.jsonl has them all")
        return not (self._thread.is_alive() or self.dropped or self._given_up)

    def _work(self) -> None:
        try:
            run = self._start()
            known: set[str] = set()
            while (item := self._queue.get()) is not _END:
                stage, step, values = item
                if stage not in known:
                    # W&B's own step must grow for ever; ours starts again with each stage and after a resume.
                    run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
                    known.add(stage)
                shown = {f"{stage}/{k}": v for k, v in values.items() if isinstance(v, int | float)}
                run.log({**shown, f"{stage}/step": step})
            run.finish()
        except BaseException as exc:
            self._given_up = True
            _note(f"given up, the job goes on without it: {type(exc).__name__}: {_one_line(exc)}")

    def _start(self) -> Any:
        wandb = importlib.import_module("wandb")
        mode = os.environ.get("WANDB_MODE") or self._spec.mode
        try:
            return self._init(wandb, mode)
        except Exception as exc:
            if mode != "online":
                raise
            _note(f"writing offline (`wandb sync` sends it later): {type(exc).__name__}: {_one_line(exc)}")
            wandb.teardown()  # its service still holds the id of the run that did not come about
            return self._init(wandb, "offline")

    def _init(self, wandb: Any, mode: str) -> Any:
        job = self._job.name
        return wandb.init(
            project=self._spec.project,
            entity=self._spec.entity,
            tags=self._spec.tags or None,
            mode=mode,
            id=wandb_id(self._job, self._run_id),
            resume="allow",
            name=f"{self._run_id}/{job}",
            group=self._run_id,
            job_type=job,
            dir=str(self._job.root),
            config=self._config,
            settings=wandb.Settings(
                console="off",  # the logs are files of the attempt; wrapping stdout would slow every print
                silent=True,
                init_timeout=_INIT_TIMEOUT_S,
                disable_code=True,
                disable_git=True,
            ),
        )


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


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300]
