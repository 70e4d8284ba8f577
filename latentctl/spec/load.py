"""Recipes and cluster profiles from files: the door to this package for everybody else.

>>> load_recipe(Path("recipe.yaml"), ["train.lr=1e-4"]).points[0].experiment
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentctl import shipped
from latentctl.errors import Exit, Problem, UserError
from latentctl.spec import catalog, files, stages
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.explain import Found, shown
from latentctl.spec.overrides import Override, OverrideProblem, at_path, parse_override
from latentctl.spec.recipe import EXPERIMENT_KEYS, RecipeTop
from latentctl.spec.resolve import Invalid, Point, Resolver, known_keys, load_plugins, overridden, validate
from latentctl.spec.unknown_keys import unknown_in
from latentctl.spec.yaml_marks import Mark, Node, from_plain

MAX_POINTS = 10_000
MAX_PROBLEMS = 200


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe as written, and every experiment that it stands for."""

    recipe_bytes: bytes
    points: list[Point]


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, grid: Sequence[str] = ()) -> LoadedRecipe:
    """Read, override, validate and resolve a recipe.

    `overrides` are texts like `train.lr=1e-4`; `grid` like `train.lr=[1e-4, 1e-5]` or `train.lr=1e-4,1e-5` adds to the
    recipe's own sweep. Raises UserError with every problem, in the order of the file, options after it.
    """
    path = Path(path)
    data = files.read_bytes(path, "recipe")
    root = files.tree(data, str(path), "recipe")
    return LoadedRecipe(data, _points(root, overrides, grid, _default_name(path.stem)))


def load_mapping(
    data: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "recipe"
) -> LoadedRecipe:
    """The same for a recipe made in memory; `where` stands for file, line and column in errors and provenance."""
    import yaml

    root = from_plain(dict(data), Mark(0, 0, 0, where))
    text = yaml.safe_dump(root.plain(), sort_keys=False, allow_unicode=True)
    return LoadedRecipe(text.encode(), _points(root, overrides, (), "experiment"))


def _default_name(stem: str) -> str:
    """A valid name from a file's stem."""
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:60]
    return name or "experiment"


def _fail(found: list[Found]) -> UserError:
    """One error of all problems: by position, each once."""
    ordered = dict.fromkeys(problem for _, problem in sorted(found, key=lambda item: item[0]))
    problems = list(ordered)
    if len(problems) > MAX_PROBLEMS:
        problems = [*problems[:MAX_PROBLEMS], Problem(f"and {len(problems) - MAX_PROBLEMS} more problems")]
    return UserError(problems=problems, kind="invalid_recipe")


def _parsed(texts: Sequence[str], option: str, rank: int, problems: list[Found]) -> list[Override]:
    result: list[Override] = []
    for i, text in enumerate(texts, start=rank):
        try:
            result.append(parse_override(text, i, option))
        except OverrideProblem as error:
            problems.append((Mark(i, 0, 0, option), error.problem))
    return result


def _points(root: Node, sets: Sequence[str], grid: Sequence[str], default_name: str) -> list[Point]:
    problems: list[Found] = []
    overrides = _parsed(sets, "--set", 1, problems)
    axes = _parsed(grid, "--grid", 1000, problems)
    root, found = stages.normalise(root)
    problems += found
    root, found = overridden(root, overrides)
    problems += found
    root = load_plugins(root, problems)
    problems += known_keys(root)
    resolver = Resolver(default_name, tuple(overrides))
    top, found = resolver.top(root)
    problems += found
    combos = _combinations(root, top, axes, problems)
    if problems or top is None:
        problems += _first_problems(Resolver(default_name), root)
        raise _fail(problems)
    return _resolved(resolver, root, top, combos)


def _first_problems(resolver: Resolver, root: Node) -> list[Found]:
    """What is wrong with the stages, for a recipe whose top is wrong already."""
    try:
        resolver.point(root, RecipeTop(), None, {})
    except Invalid as error:
        return error.problems
    return []


def _resolved(resolver: Resolver, root: Node, top: RecipeTop, combos: list[list[Override]]) -> list[Point]:
    seeds: list[int | None] = (
        list(range(top.seeds)) if isinstance(top.seeds, int) else list(top.seeds or [top.seed])
    )
    points: list[Point] = []
    problems: list[Found] = []
    for combo in combos:
        changed = {o.key: o.value.plain() for o in combo}
        try:
            tree, found = overridden(root, combo)
            found += known_keys(tree) if combo else []
            if found:
                raise Invalid(found)
            for seed in seeds:
                varies = changed | ({"seed": seed} if len(seeds) > 1 else {})
                points.append(_point(resolver, tree, top, seed, varies, combo))
        except Invalid as error:
            problems += error.problems
            if len(problems) > MAX_PROBLEMS:
                break
    if problems:
        raise _fail(problems)
    return points


def _point(
    resolver: Resolver,
    tree: Node,
    top: RecipeTop,
    seed: int | None,
    varies: dict[str, Any],
    combo: list[Override],
) -> Point:
    if combo:
        changed, found = resolver.top(tree)
        if found or changed is None:
            raise Invalid(found)
        top = changed
        resolver = Resolver(resolver.default_name, (*resolver.check_unused, *combo))
    return resolver.point(tree, top, seed, varies)


def _combinations(
    root: Node, top: RecipeTop | None, axes: list[Override], problems: list[Found]
) -> list[list[Override]]:
    """Every combination of the sweep's values, the recipe's own axes first."""
    all_axes = _written_axes(root) if top and top.sweep else {}
    for axis in axes:
        values = axis.value
        if isinstance(values.value, str) and "," in values.value:
            values = _split(axis)
        if not isinstance(values.value, list) or not values.value:
            hint = f"write --grid {axis.key}=1,2,3"
            problems.append((values.mark, Problem("expected a list of values", str(values.mark), None, hint)))
            continue
        all_axes[axis.key] = values
    count = len(
        list(range(top.seeds)) if top and isinstance(top.seeds, int) else (top.seeds or [0]) if top else [0]
    )
    for values in all_axes.values():
        count *= len(values.value)
    if count > MAX_POINTS:
        where = next(iter(all_axes.values())).key if all_axes else root.mark
        message = f"the sweep has {count:,} points; the limit is {MAX_POINTS:,}"
        problems.append((where, Problem(message, str(where), "sweep.grid", "list fewer values, or split it")))
        return []
    _check_axes(all_axes, problems)
    named = [[Override(tuple(key.split(".")), v) for v in values.value] for key, values in all_axes.items()]
    return [
        [Override(o.path, at_path(o.value, o.path)) for o in combo] for combo in itertools.product(*named)
    ]


def _split(axis: Override) -> Node:
    """`1e-4,1e-5` as the list of its parts, each read as YAML."""
    option = axis.value.mark.source.split()[0]
    parts = [
        parse_override(f"{axis.key}={part}", axis.value.mark.rank, option)
        for part in axis.value.value.split(",")
    ]
    return Node([p.value for p in parts], axis.value.mark, axis.value.key, axis.path)


def _written_axes(root: Node) -> dict[str, Node]:
    sweep = root.get("sweep")
    grid = sweep.get("grid") if sweep else None
    return dict(grid.value) if grid is not None and grid.is_map else {}


def _check_axes(axes: dict[str, Node], problems: list[Found]) -> None:
    for key, values in axes.items():
        where, said = values.key, str(values.key)
        first = key.split(".")[0]
        if not all(key.split(".")):
            problems.append((where, Problem(f"{shown(key)} is not a dotted key", said, "sweep.grid")))
        elif first in ("sweep", "seeds", "seed", "schema_version", "name", "plugins", "jobs", "wandb"):
            hint = "say seeds at the top of the recipe" if first in ("seed", "seeds") else None
            problems.append((where, Problem(f"a sweep cannot vary {first}", said, f"sweep.grid.{key}", hint)))
        elif not values.value:
            problems.append((where, Problem("an empty list: no values to try", said, f"sweep.grid.{key}")))


def expand(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of a grid's values, the last key varying fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def profile_folders() -> list[Path]:
    """Where cluster profiles are looked for, nearest first."""
    return [Path("cluster"), Path("~/.config/latentctl/clusters").expanduser(), shipped.folder("cluster")]


def list_profiles() -> dict[str, Path]:
    """Name -> file of every profile that can be named; a nearer one hides a farther one of the same name."""
    found: dict[str, Path] = {}
    for folder in profile_folders():
        for path in sorted(folder.glob("*.yaml")) if folder.is_dir() else []:
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def load_profile(name: str | Path) -> ClusterProfile:
    """A cluster profile by name or path. Raises UserError: unknown (exit code 3), or everything that is wrong with it."""
    text = str(name)
    if "/" in text or text.endswith((".yaml", ".yml")):
        path = Path(text).expanduser()
    else:
        known = list_profiles()
        if text not in known:
            near = catalog.nearest(text, known)
            hint = f"did you mean {near}?" if near else f"known: {catalog.listed(known) or 'none'}"
            raise UserError(f"no cluster profile {text!r}", hint=hint, code=Exit.NOT_FOUND, kind="not_found")
        path = known[text]
    root = files.tree(files.read_bytes(path, "cluster profile"), str(path), "cluster profile")
    if root.get("name") is None:
        root = root.with_child("name", Node(_default_name(path.stem), root.mark, root.mark, ("name",)))
    unknown = unknown_in(root, ClusterProfile)
    profile, problems = validate(stages.strip_nulls(root), ClusterProfile)
    problems = unknown + [f for f in problems if f[1].message != "unknown key"]
    if problems or profile is None:
        raise _fail(problems)
    return profile


__all__ = [
    "EXPERIMENT_KEYS",
    "LoadedRecipe",
    "Point",
    "expand",
    "list_profiles",
    "load_mapping",
    "load_profile",
    "load_recipe",
]
