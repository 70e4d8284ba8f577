"""A heavy verb of the CLI: `python -m jobs.task VERB in.json out.json`, in the cluster profile's interpreter.

Reads a JSON mapping, writes a JSON mapping. What a person can mend comes back as
`{"error": {"message", "hint", "where", "exit"}}` with exit code 2; a bug as the same with `exit` 70, its
traceback on stderr, and exit code 1. Progress may go to stderr; stdout is not read.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from jobs.runtime.errors import JobUserError, classify
from latentctl.errors import Exit
from latentctl.record.atomic import read_json, write_json

VERBS = {
    "data": "jobs.data.task:run",
    "leakage": "jobs.data.leakage:run",
    "grade": "jobs.grade.task:run",
    "doctor": "jobs.runtime.doctor:run",
    "preflight": "jobs.preflight.inspect:run",
    "prefetch": "jobs.preflight.fetch:run",
}
"""Verb -> `module:function`, imported when asked for; each takes and gives a mapping that JSON can hold."""


def run(verb: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Raises JobUserError, and whatever a bug raises."""
    if verb not in VERBS:
        raise JobUserError(f"no verb {verb!r}; there are {', '.join(VERBS)}")
    module, _, name = VERBS[verb].partition(":")
    return getattr(importlib.import_module(module), name)(payload)


def main(argv: list[str]) -> int:
    if len(argv) != 3:
        print("usage: python -m jobs.task VERB in.json out.json", file=sys.stderr)
        return Exit.USAGE
    verb, source, target = argv[0], Path(argv[1]), Path(argv[2])
    try:
        write_json(target, run(verb, _payload(source)))
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.CTRL_C
    except Exception as exc:
        failure = classify(exc)
        mendable = failure.kind == "user_error"
        if not mendable:
            traceback.print_exc()
        error = {
            "message": failure.message,
            "hint": failure.hint,
            "where": failure.where,
            "exit": Exit.USAGE if mendable else Exit.BUG,
            "class": failure.kind,
        }
        write_json(target, {"error": error})
        return Exit.USAGE if mendable else Exit.NEGATIVE


def _payload(path: Path) -> dict[str, Any]:
    try:
        payload = read_json(path)
    except (OSError, ValueError) as exc:
        raise JobUserError(f"the input cannot be read: {exc}", where=str(path)) from exc
    if not isinstance(payload, dict):
        raise JobUserError("the input is not a mapping", where=str(path))
    return payload


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
