"""All findings of one reading as one error: by position, each once, stages by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from latentctl.errors import Problem, UserError
from latentctl.spec.explain import Found

MAX_PROBLEMS = 200


class Invalid(Exception):
    """Carries every problem found, placed."""

    def __init__(self, found: Iterable[Found]) -> None:
        self.found = list(found)
        super().__init__(f"{len(self.found)} problems")


def _presented(found: Found, stage_names: Mapping[str, str]) -> Problem:
    """`stages.1.train.lr` as `stages.sft.train.lr`; no key where an option's place says it already."""
    problem = found[1]
    if problem.key is None:
        return problem
    if problem.where is not None and problem.where.endswith(f" {problem.key}"):
        return replace(problem, key=None)
    match = re.match(r"stages\.(\d+)", problem.key)
    if match and match[1] in stage_names:
        return replace(problem, key=f"stages.{stage_names[match[1]]}{problem.key[match.end() :]}")
    return problem


def user_error(found: Iterable[Found], stage_names: Mapping[str, str] | None = None) -> UserError:
    """One error of all problems. `stage_names`: index in the file -> name.

    Of two that say the same of the same place, the one with a hint stays.
    """
    best: dict[tuple[str | None, ...], Problem] = {}
    for item in sorted(found, key=lambda f: f[0]):
        problem = _presented(item, stage_names or {})
        same = (problem.where, problem.key, problem.message)
        if same not in best or (problem.hint and not best[same].hint):
            best[same] = problem
    problems = list(best.values())
    if len(problems) > MAX_PROBLEMS:
        problems = [*problems[:MAX_PROBLEMS], Problem(f"and {len(problems) - MAX_PROBLEMS} more problems")]
    return UserError(problems=problems, kind="invalid_recipe")
