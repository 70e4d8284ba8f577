"""Grids: which values a sweep tries, and every combination of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from latentctl.errors import Problem
from latentctl.spec.explain import Found, shown
from latentctl.spec.overrides import Override, OverrideProblem, parse_override
from latentctl.spec.recipe import RecipeTop
from latentctl.spec.yaml_marks import Node, at_path

MAX_POINTS = 10_000
_FIXED = frozenset(RecipeTop.model_fields)
T = TypeVar("T")


def expand(grid: Mapping[str, Sequence[T]]) -> list[dict[str, T]]:
    """Every combination of a grid's values, the last key varying fastest; one empty combination for an empty
    grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def seeds(top: RecipeTop) -> list[int]:
    """The seeds that a recipe asks for."""
    if isinstance(top.seeds, int):
        return list(range(top.seeds))
    return top.seeds or [top.seed or 0]


def combinations(
    root: Node, top: RecipeTop, overrides: Sequence[Override], axes: Sequence[Override], problems: list[Found]
) -> list[list[Override]]:
    """The overrides of each point: the recipe's own axes first, then those of `--grid` (which replace one of
    the same key). Adds to `problems`; the number of points, seeds included, is at most `MAX_POINTS`."""
    grid = _written(root) | _from_options(axes, problems)
    _check(grid, overrides, problems)
    count = len(seeds(top)) * math.prod(len(values) for values, _ in grid.values())
    if count > MAX_POINTS:
        where = next(iter(grid.values()))[1].key
        message = f"the sweep has {count:,} points; the limit is {MAX_POINTS:,}"
        problems.append((where, Problem(message, str(where), "sweep.grid", "list fewer values, or split it")))
        return []
    named = {key: values for key, (values, _) in grid.items()}
    return [[_override(key, value) for key, value in combo.items()] for combo in expand(named)]


def _override(key: str, value: Node) -> Override:
    path = tuple(key.split("."))
    return Override(path, at_path(value, path))


Axes = dict[str, tuple[list[Node], Node]]
"""Dotted key -> the values to try, and the node that lists them."""


def _written(root: Node) -> Axes:
    sweep = root.get("sweep")
    grid = sweep.get("grid") if sweep else None
    if grid is None or not grid.is_map:
        return {}
    return {
        key: (values.value, values) for key, values in grid.value.items() if isinstance(values.value, list)
    }


def _from_options(axes: Sequence[Override], problems: list[Found]) -> Axes:
    found: Axes = {}
    for axis in axes:
        node = axis.value
        if isinstance(node.value, str) and "," in node.value:
            texts = [f"{axis.key}={part}" for part in node.value.split(",")]
            try:
                values = [parse_override(text, node.mark.rank, "--grid").value for text in texts]
            except OverrideProblem as error:
                problems.append((node.mark, error.problem))
                continue
            node = replace(node, value=values)
        if isinstance(node.value, list):
            found[axis.key] = (node.value, node)
        else:
            hint = f"write --grid {axis.key}=1,2,3"
            problems.append((node.mark, Problem("expected a list of values", str(node.mark), None, hint)))
    return found


def _check(grid: Axes, overrides: Sequence[Override], problems: list[Found]) -> None:
    for key, (values, node) in grid.items():

        def say(message: str, hint: str | None = None, node: Node = node, key: str = key) -> None:
            where = f"sweep.grid.{key}" if node.key.line else None
            problems.append((node.key, Problem(message, str(node.key), where, hint)))

        first, empty = key.split(".")[0], not all(key.split("."))
        if empty:
            say(f"{shown(key)} is not a dotted key")
        elif first in _FIXED:
            say(
                f"a sweep cannot vary {first}",
                "say seeds at the top of the recipe" if "seed" in first else None,
            )
        elif not values:
            say("an empty list: no values to try")
        plain = [repr(v.plain()) for v in values]
        for i, value in enumerate(plain):
            if value in plain[:i]:
                say(f"{value} is listed twice")
        for one in overrides:
            if one.key == key:
                mark = one.value.mark
                problems.append((mark, Problem("does nothing: the sweep varies this key", str(mark))))
