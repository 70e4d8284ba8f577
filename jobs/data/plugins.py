"""Python files that a recipe names under `plugins:`; importing one registers what it holds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jobs.runtime.errors import JobUserError
from latentctl.errors import UserError
from latentctl.spec.plugins import load_plugin

_done: set[Path] = set()


def load_plugins(paths: Iterable[str]) -> None:
    """Import each file once. Raises JobUserError with the file and the line that failed."""
    for given in paths:
        path = Path(given).expanduser().resolve()
        if path in _done:
            continue
        if not path.is_file():
            raise JobUserError(f"no such plugin file: {given}", where="plugins")
        try:
            load_plugin(path)
        except UserError as error:
            problem = error.problems[0]
            raise JobUserError(problem.message, hint=problem.hint, where=problem.where) from error
        _done.add(path)
