"""A process of the grading pool: `python -m jobs.grade.child KIND NAME SECONDS MEGABYTES [PLUGIN...]`.

Reads one JSON row a line, writes one JSON answer a line. An alarm that nobody catches ends the process where
a grader or a reward does not return, even if the parent is gone; so does the end of its input.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jobs.grade.protocol import Answered
from jobs.grade.workers import FAILED, failure


def main(argv: list[str]) -> None:
    kind, name, seconds, megabytes, *plugins = argv
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed must not reach the answers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    served, serve = _KINDS[kind](name, plugins)
    if warm := getattr(served, "warm", None):
        warm()
    with contextlib.suppress(ValueError, OSError):
        limit = int(megabytes) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    out.write("ready\n")
    out.flush()
    for line in sys.stdin:
        raw = json.loads(line)
        signal.alarm(math.ceil(float(seconds)) + 1)
        try:
            answer = serve(raw)
        except Exception as error:
            answer = {FAILED: f"the {kind} failed: {failure(error)}"}
        signal.alarm(0)
        out.write(json.dumps(answer) + "\n")
        out.flush()


Served = tuple[Any, Callable[[dict[str, Any]], dict[str, Any]]]


def _grader(name: str, plugins: Sequence[str]) -> Served:
    from jobs.grade.registry import get

    grader = get(name, plugins)

    def serve(raw: dict[str, Any]) -> dict[str, Any]:
        item = Answered(raw["text"], raw["gold"], raw["meta"], tuple(raw["markers"]))
        verdict = grader.grade(item)
        return {"status": verdict.status, "extracted": verdict.extracted, "reason": verdict.reason}

    return grader, serve


def _reward(name: str, plugins: Sequence[str]) -> Served:
    from jobs.grade.rewards.own import get, packed, unpacked

    reward = get(name, plugins)
    return reward, lambda raw: packed(reward.reward(*unpacked(raw)))


_KINDS: dict[str, Callable[[str, Sequence[str]], Served]] = {"grader": _grader, "reward": _reward}


if __name__ == "__main__":
    main(sys.argv[1:])
