"""Recipes and cluster profiles from files: the door to this package for everybody else.

`load_recipe("recipe.yaml", ["train.lr=1e-4"]).points[0].experiment`
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentctl.errors import UserError
from latentctl.spec import files, stages
from latentctl.spec import sweep as sweeps
from latentctl.spec.explain import Found
from latentctl.spec.findings import MAX_PROBLEMS, Invalid, user_error
from latentctl.spec.overrides import Override, OverrideProblem, apply_all, parse_override
from latentctl.spec.packing import packed
from latentctl.spec.plugins import load_plugins
from latentctl.spec.profiles import list_profiles, load_profile
from latentctl.spec.recipe import RecipeTop
from latentctl.spec.resolve import Point, resolve, validate_top
from latentctl.spec.sweep import expand
from latentctl.spec.unknown_keys import unknown_keys
from latentctl.spec.yaml_marks import Mark, Node, from_plain

__all__ = ["LoadedRecipe", "Point", "expand", "list_profiles", "load_mapping", "load_profile", "load_recipe"]

_GRID_RANK = 1_000_000
"""Marks of `--grid` sort after those of every `--set`."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe as written, and every experiment that it stands for."""

    recipe_bytes: bytes
    points: list[Point]
    """The sweep's combinations in order, each with all seeds; one where there is no sweep and one seed."""

    @property
    def swept(self) -> bool:
        """Whether it stands for several points, in whatever number of runs."""
        return len(self.points) > 1 or len(self.points[0].parts) > 1


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    grid: Sequence[str] = (),
    sweep: Mapping[str, Any] | None = None,
) -> LoadedRecipe:
    """Read, override, validate and resolve a recipe.

    `overrides` are texts like `train.lr=1e-4`; `grid` like `train.lr=[1e-4, 1e-5]` or `train.lr=1e-4,1e-5`
    adds to the recipe's own sweep, of which `sweep` replaces `random` and `pack`. Relative paths are made
    absolute against the current directory; plugins are imported. Raises UserError with every problem, in the
    order of the file, options after it.
    """
    path = Path(path)
    data = files.read_bytes(path, "recipe")
    root = files.tree(data, str(path), "recipe")
    for key, value in (sweep or {}).items():
        mark = Mark(_GRID_RANK, 0, 0, f"--{key}")
        old = root.get("sweep") or Node({}, mark, mark, ("sweep",))
        child = from_plain(value, mark, ("sweep", key))
        root = root.with_child("sweep", old.with_child(key, child) if old.is_map else old)
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")[:60]
    return LoadedRecipe(data, _points(root, overrides, grid, name or "experiment"))


def load_mapping(
    data: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "recipe"
) -> LoadedRecipe:
    """The same for a recipe made in memory; `where` stands for file, line and column in errors and
    provenance."""
    import yaml

    root = from_plain(dict(data), Mark(0, 0, 0, where))
    text = yaml.safe_dump(root.plain(), sort_keys=False, allow_unicode=True)
    return LoadedRecipe(text.encode(), _points(root, overrides, (), "experiment"))


def _stops_losing(point: Point) -> str | None:
    """The first stage that says it."""
    return next((s.name for s in point.experiment.stages if s.train.stop_losing is not None), None)


def _parsed(texts: Sequence[str], option: str, rank: int, found: list[Found]) -> list[Override]:
    result: list[Override] = []
    for i, text in enumerate(texts, start=rank):
        try:
            result.append(parse_override(text, i, option))
        except OverrideProblem as error:
            found.append((Mark(i, 0, 0, option), error.problem))
    return result


def _points(root: Node, sets: Sequence[str], grid: Sequence[str], default_name: str) -> list[Point]:
    found: list[Found] = []
    overrides = _parsed(sets, "--set", 1, found)
    axes = _parsed(grid, "--grid", _GRID_RANK, found)
    root, new = stages.normalise(root)
    found += new
    root, new = apply_all(root, overrides)
    found += new
    root, new = load_plugins(root)
    found += [*new, *unknown_keys(root)]
    top, new = validate_top(root)
    found += new
    combos = sweeps.combinations(root, top, overrides, axes, found) if top else []
    if found or top is None:
        # Whatever else is wrong is told in the same breath.
        raise user_error([*found, *_stage_problems(root, default_name)], stages.by_index(root))
    return _all_points(root, top, overrides, combos, default_name)


def _stage_problems(root: Node, default_name: str) -> list[Found]:
    try:
        resolve(root, RecipeTop(name=default_name), seed=0)
    except Invalid as error:
        return error.found
    return []


def _all_points(
    root: Node, top: RecipeTop, overrides: list[Override], combos: list[list[Override]], default_name: str
) -> list[Point]:
    top = top.model_copy(update={"name": top.name or default_name})
    seeds = sweeps.seeds(top)
    points: list[Point] = []
    found: list[Found] = []
    for combo in combos:
        tree, new = apply_all(root, combo)
        new += unknown_keys(tree) if combo else []
        found += new
        for seed in [] if new else seeds:
            varies = {o.key: o.value.plain() for o in combo} | ({"seed": seed} if len(seeds) > 1 else {})
            try:
                points.append(resolve(tree, top, seed=seed, varies=varies, options=[*overrides, *combo]))
            except Invalid as error:
                found += error.found
                break
        if len(found) > MAX_PROBLEMS:
            break
    if found:
        raise user_error(found, stages.by_index(root))
    if len(points) == 1 and (idle := _stops_losing(points[0])):
        raise UserError(
            "train.stop_losing does nothing without other points to lose against",
            where=f"stages.{idle}.train.stop_losing",
            hint="it is for sweeps: latentctl sweep RECIPE --grid KEY=V1,V2, or `sweep:` in the recipe",
        )
    pack = top.sweep.pack if top.sweep else 1
    return packed(points, pack) if pack > 1 else points
