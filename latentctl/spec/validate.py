"""A tree against a model: the instance, or everything that is wrong with it."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import ValidationError

from latentctl.errors import Problem
from latentctl.spec.base import Spec
from latentctl.spec.explain import Found, explain
from latentctl.spec.yaml_marks import Node

AnySpec = TypeVar("AnySpec", bound=Spec)


def validate(
    node: Node, model: type[AnySpec], *, leaves_only: bool = False
) -> tuple[AnySpec | None, list[Found]]:
    """The model's instance, or everything that is wrong.

    What a block says of its keys together is judged even if some of its keys are wrong, as long as it does
    not concern those. `leaves_only`: wrong values alone, nothing that is absent or contradicts.
    """
    found: list[Found] = []
    plain, removed = node.plain(), set[str]()
    for _ in range(4):
        try:
            instance = model.model_validate(plain)
            return (None if found else instance), found
        except ValidationError as error:
            new = [
                f
                for f in explain(error, node, [model], leaves_only=leaves_only)
                if not _follows(f[1], removed)
            ]
            found += [f for f in new if f not in found]
            if not _prune(plain, error, removed):
                break
    return None, found


def _follows(problem: Problem, removed: set[str]) -> bool:
    return any(re.search(rf"\b{re.escape(key)}\b", problem.message) for key in removed)


def _prune(plain: Any, error: ValidationError, removed: set[str]) -> bool:
    """Take the wrong leaves out, so that a second validation reaches what stands behind them."""
    pruned = False
    for item in error.errors(include_url=False):
        here = plain
        for part in item["loc"]:
            below = here.get(part) if isinstance(here, dict) else None
            if isinstance(here, dict) and part in here and not isinstance(below, dict):
                del here[part]
                removed.add(str(part))
                pruned = True
                break
            here = below if isinstance(below, dict) else here
    return pruned
