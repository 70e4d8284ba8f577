"""Keys that nothing reads, found on what was written, before anything is inherited or dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from latentctl.errors import Problem
from latentctl.spec import catalog
from latentctl.spec.base import Spec
from latentctl.spec.chain import EACH_KEYS
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.explain import Found
from latentctl.spec.methods import METHODS, load_entry_points
from latentctl.spec.recipe import EXPERIMENT_KEYS, STAGES, RecipeTop
from latentctl.spec.stage import StageBase
from latentctl.spec.yaml_marks import Node

_PROFILE_KEYS = {
    **{
        key: f"{key} belongs in a cluster profile: `latentctl clusters list`"
        for key in ClusterProfile.model_fields
    },
    "cluster": "a recipe runs anywhere: choose the cluster with `latentctl submit --cluster NAME`",
}
"""What a recipe leaves to the cluster profile, with what to do instead."""
Everywhere = Callable[[], dict[str, list[tuple[str, ...]]]]
"""Worked out only for a recipe with an unknown key: a sweep looks at thousands without."""


def _report(node: Node, known: Iterable[str], everywhere: Everywhere) -> Found:
    key, homes = node.path[-1] if node.path else "", everywhere()
    if key not in homes and key in _PROFILE_KEYS:
        return node.key, Problem("unknown key", str(node.key), ".".join(node.path), _PROFILE_KEYS[key])
    hint = catalog.hint_for_key(key, known, homes, EXPERIMENT_KEYS - {"name"})
    return node.key, Problem("unknown key", str(node.key), ".".join(node.path), hint)


def _block(node: Node, models: list[type[Spec]], everywhere: Everywhere) -> list[Found]:
    """Below a key whose value is one of these blocks."""
    if not node.is_map or not models:
        return []
    fields = [catalog.blocks(model) for model in models]
    known = dict.fromkeys(key for one in fields for key in one)
    found: list[Found] = []
    for key, child in node.value.items():
        if key not in known:
            found.append(_report(child, known, everywhere))
        else:
            found += _block(child, [m for one in fields for m in one.get(key, [])], everywhere)
    return found


def _stage_fields() -> dict[str, list[type[Spec]]]:
    return catalog.blocks(StageBase) | {
        name: catalog.submodels(settings) for name, settings in METHODS.items()
    }


def _level(
    items: dict[str, Node], fields: dict[str, list[type[Spec]]], everywhere: Everywhere
) -> list[Found]:
    found: list[Found] = []
    for key, child in items.items():
        if key in fields:
            found += _block(child, fields[key], everywhere)
        else:
            found.append(_report(child, fields, everywhere))
    return found


def _each(level: Node, fields: dict[str, list[type[Spec]]], everywhere: Everywhere) -> list[Found]:
    """What `coconut.eval_each` says of its evaluations: keys of a stage, within a method's block."""
    block = level.get("coconut")
    each = block.get("eval_each") if block else None
    if each is None or not each.is_map:
        return []
    return _level(each.value, {k: fields[k] for k in EACH_KEYS}, everywhere)


def _know_methods(root: Node) -> None:
    """Load the methods of installed packages if the recipe names one that is not known yet."""
    listed = root.get(STAGES)
    levels = [root, *(listed.value if listed else [])]
    said = {str(method.value) for level in levels if (method := level.get("method")) is not None}
    blocks = set(root.value) - set(catalog.keys(StageBase)) - EXPERIMENT_KEYS
    if (said | blocks) - set(METHODS):
        load_entry_points()


def unknown_keys(root: Node) -> list[Found]:
    """Every unknown key of a normalised recipe, with the nearest known one or where it belongs."""
    _know_methods(root)
    stage = _stage_fields()
    top = catalog.blocks(RecipeTop) | {STAGES: []}
    found = _level(root.value, stage | top, _everywhere) + _each(root, stage, _everywhere)
    stages = root.get(STAGES)
    for one in stages.value if stages is not None else []:
        found += _level(one.value, stage, _everywhere) + _each(one, stage, _everywhere)
    return found


def _everywhere() -> dict[str, list[tuple[str, ...]]]:
    found = catalog.places([StageBase, RecipeTop])
    for name, settings in METHODS.items():
        for key, homes in catalog.places([settings], (name,)).items():
            found.setdefault(key, []).extend(homes)
    return found


def unknown_in(node: Node, model: type[Spec]) -> list[Found]:
    """Every unknown key of a file that is one block (a cluster profile)."""
    return _block(node, [model], lambda: catalog.places([model]))
