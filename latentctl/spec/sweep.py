"""Which points a sweep tries: grids, lists, random draws, and every combination of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from latentctl.errors import Problem
from latentctl.spec.experiment import RangeSpec
from latentctl.spec.explain import Found, shown
from latentctl.spec.overrides import Override, OverrideProblem, parse_override
from latentctl.spec.recipe import RecipeTop
from latentctl.spec.yaml_marks import Node, at_path, from_plain

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
    """The overrides of each point: every combination of the listed points, the drawn ones, and the grid, in
    which `--grid` replaces an axis of the same key. Adds to `problems`; the number of points, seeds included,
    is at most `MAX_POINTS`."""
    grid = _written(root) | _from_options(axes, problems)
    listed, drawn = _listed(root), _drawn(root, top, problems)
    _check(grid, overrides, problems)
    _check_kinds([listed, drawn, [{k: n for k, (_, n) in grid.items()}]], overrides, problems)
    count = len(seeds(top)) * math.prod(len(values) for values, _ in grid.values())
    count *= max(1, len(listed)) * max(1, len(drawn))
    if count > MAX_POINTS:
        where = next((node for _, node in grid.values()), root.get("sweep") or root).key
        message = f"the sweep has {count:,} points; the limit is {MAX_POINTS:,}"
        problems.append((where, Problem(message, str(where), "sweep.grid", "list fewer values, or split it")))
        return []
    named = {key: values for key, (values, _) in grid.items()}
    return [
        [_override(key, value) for key, value in (one | two | combo).items()]
        for one in listed or [{}]
        for two in drawn or [{}]
        for combo in expand(named)
    ]


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


def _listed(root: Node) -> list[dict[str, Node]]:
    """The points of `list`."""
    sweep = root.get("sweep")
    listed = sweep.get("list") if sweep else None
    values = listed.value if listed is not None and isinstance(listed.value, list) else []
    return [dict(point.value) for point in values if point.is_map]


def _drawn(root: Node, top: RecipeTop, problems: list[Found]) -> list[dict[str, Node]]:
    """The points of `random`: different ones, always the same for a seed."""
    spec, sweep = top.sweep.random if top.sweep else None, root.get("sweep")
    node = sweep.get("random") if sweep else None
    space = node.get("space") if node else None
    if spec is None or node is None or space is None:
        return []
    rng = Random(spec.seed)
    found: dict[str, dict[str, Node]] = {}
    for _ in range(100 * spec.count):
        point = {key: _draw(rng, space.value[key], said) for key, said in spec.space.items()}
        found.setdefault(repr([value.plain() for value in point.values()]), point)
        if len(found) == spec.count:
            return list(found.values())
    hint = f"lower sweep.random.count to {len(found)}, or widen the space"
    message = f"{spec.count} different points cannot be drawn: the space has about {len(found)}"
    problems.append((node.key, Problem(message, str(node.key), "sweep.random", hint)))
    return []


def _draw(rng: Random, node: Node, said: RangeSpec | list[Any]) -> Node:
    if not isinstance(said, RangeSpec):
        return rng.choice(node.value)
    scale, back = (math.log, math.exp) if said.log else (float, float)
    value: float = back(rng.uniform(scale(said.low), scale(said.high)))
    value = round(value) if said.whole else min(max(float(f"{value:.4g}"), said.low), said.high)
    return from_plain(value, node.mark, node.path)


def _check_kinds(
    kinds: Sequence[Sequence[Mapping[str, Node]]], overrides: Sequence[Override], problems: list[Found]
) -> None:
    """Keys of listed and drawn points, and that no key is varied twice."""
    seen: dict[str, int] = {}
    for i, points in enumerate(kinds):
        for key, node in {k: n for point in reversed(points) for k, n in point.items()}.items():
            message = _fault(key, overrides) if i < len(kinds) - 1 else None
            if message is None and key in seen:
                message = "the sweep varies this key twice"
            seen.setdefault(key, i)
            if message is not None:
                problems.append((node.key, Problem(message, str(node.key), f"sweep: {key}")))
        plain = [repr({k: n.plain() for k, n in point.items()}) for point in points]
        for place, one in enumerate(plain):
            if one in plain[:place]:
                node = next(iter(points[place].values()))
                twice = Problem("this point is listed twice", str(node.key), "sweep.list")
                problems.append((node.key, twice))


def _fault(key: str, overrides: Sequence[Override]) -> str | None:
    """Why a sweep cannot vary a key; None if it can."""
    if not all(key.split(".")):
        return f"{shown(key)} is not a dotted key"
    if (first := key.split(".")[0]) in _FIXED:
        return f"a sweep cannot vary {first}"
    if any(one.key == key for one in overrides):
        return "--set gives a value to this key, and the sweep varies it"
    return None


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
