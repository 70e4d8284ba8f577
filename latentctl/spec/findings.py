"""All findings of one reading as one error: by position, each once, stages by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from latentctl.errors import Problem, UserError
from latentctl.spec.explain import Found

MAX_PROBLEMS = 200


class Invalid(Exception):
    """Carries every problem found, placed."""

    def __init__(self, found: Iterable[Found]) -> None:
        self.found = list(found)
        super().__init__(f"{len(self.found)} problems")


def _presented(found: Found, stage_names: Sequence[str]) -> Problem:
    """`stages.1.train.lr` as `stages.sft.train.lr`; no key where an option's place says it already."""
    problem = found[1]
    if problem.key is None:
        return problem
    if problem.where is not None and problem.where.endswith(f" {problem.key}"):
        return replace(problem, key=None)
    match = re.match(r"stages\.(\d+)", problem.key)
    if match and int(match[1]) < len(stage_names):
        return replace(problem, key=f"stages.{stage_names[int(match[1])]}{problem.key[match.end() :]}")
    return problem


def user_error(found: Iterable[Found], stage_names: Sequence[str] = ()) -> UserError:
    """One error of all problems. Of two that say the same of the same place, the one with a hint stays."""
    best: dict[tuple[str | None, str], Problem] = {}
    for item in sorted(found, key=lambda f: f[0]):
        problem = _presented(item, stage_names)
        same = best.get((problem.where, problem.message))
        if same is None or (same.key == problem.key and problem.hint and not same.hint):
            best[(problem.where, problem.message)] = problem
        elif same.key != problem.key and problem.message == "missing":
            best[(problem.where, f"{problem.message} {problem.key}")] = problem
    problems = list(best.values())
    if len(problems) > MAX_PROBLEMS:
        problems = [*problems[:MAX_PROBLEMS], Problem(f"and {len(problems) - MAX_PROBLEMS} more problems")]
    return UserError(problems=problems, kind="invalid_recipe")
