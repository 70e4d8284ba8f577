"""The process beside a job that talks to W&B: `wandb.py` starts it and feeds it.

Reads JSON lines from stdin: first what `wandb.init` needs, then rows [stage, step, values], last
{"exit": code}. Says on stderr what goes wrong, once. Exit codes: 0 W&B has everything, 1 it gave up.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

from latentctl.record.plan import EXIT_REQUEUE

_INIT_TIMEOUT_S = 90


def main() -> int:
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # meant for the worker; its end is ours
    try:
        lines = (json.loads(line) for line in sys.stdin)
        if (start := next(lines, None)) is not None:
            run = _start(importlib.import_module("wandb"), start)
            code = _mirror(run, lines)
            if code == EXIT_REQUEUE:
                run.mark_preempting()
            run.finish(exit_code=code)
        return 0
    except BaseException as exc:
        _note(f"given up, the job goes on without it: {_short(exc)}")
        return 1


def _mirror(run: Any, rows: Iterable[Any]) -> int:
    """The worker's exit code; 1 where it went without a word."""
    known: set[str] = set()
    for row in rows:
        if isinstance(row, dict):
            return row["exit"]
        stage, step, values = row
        if stage not in known:
            # W&B's own step must grow for ever; ours starts again with each stage and after a resume.
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            known.add(stage)
        shown = {f"{stage}/{k}": v for k, v in values.items() if isinstance(v, int | float)}
        run.log({**shown, f"{stage}/step": step})
    return 1


def _start(wandb: Any, start: dict[str, Any]) -> Any:
    try:
        return _init(wandb, start)
    except Exception as exc:
        if start["mode"] != "online":
            raise
        _note(f"writing offline (`wandb sync` sends it later): {_short(exc)}")
        wandb.teardown()  # its service still holds the id of the run that did not come about
        return _init(wandb, {**start, "mode": "offline"})


def _init(wandb: Any, start: dict[str, Any]) -> Any:
    settings = wandb.Settings(
        console="off",
        silent=True,
        init_timeout=_INIT_TIMEOUT_S,
        disable_code=True,
        disable_git=True,
    )
    return wandb.init(**start, resume="allow", settings=settings)


def _short(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"


def _note(message: str) -> None:
    print(f"wandb: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # its exit hooks may wait for the network
