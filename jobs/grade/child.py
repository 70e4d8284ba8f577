"""A process of the grading pool: `python -m jobs.grade.child GRADER SECONDS MEGABYTES [PLUGIN...]`.

Reads one JSON item a line, writes one JSON verdict a line. An alarm that nobody catches ends the process
where a grader does not return, even if the parent is gone; so does the end of its input.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import sys

from jobs.grade.protocol import Answered, Verdict


def main(argv: list[str]) -> None:
    name, seconds, megabytes, *plugins = argv
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a grader prints must not reach the answers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from jobs.grade.registry import get

    grader = get(name, plugins)
    if warm := getattr(grader, "warm", None):
        warm()
    with contextlib.suppress(ValueError, OSError):
        limit = int(megabytes) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    out.write("ready\n")
    out.flush()
    for line in sys.stdin:
        raw = json.loads(line)
        item = Answered(raw["text"], raw["gold"], raw["meta"], tuple(raw["markers"]))
        signal.alarm(math.ceil(float(seconds)) + 1)
        try:
            verdict = grader.grade(item)
        except Exception as error:
            verdict = Verdict("error", None, f"the grader failed: {type(error).__name__}: {str(error)[:200]}")
        signal.alarm(0)
        row = {"status": verdict.status, "extracted": verdict.extracted, "reason": verdict.reason}
        out.write(json.dumps(row) + "\n")
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
