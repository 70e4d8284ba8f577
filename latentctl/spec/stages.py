"""From what is written to whole stages: short forms, names, inheritance from the top, which blocks a method
uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

from latentctl.errors import Problem
from latentctl.spec import catalog, methods
from latentctl.spec.explain import Found, shown
from latentctl.spec.recipe import EXPERIMENT_KEYS, STAGES
from latentctl.spec.short_forms import long_form, null_says, other_kind
from latentctl.spec.yaml_marks import Mark, Node


@dataclass(frozen=True)
class Draft:
    """A stage before validation: its method, its name, its whole tree, and what it said itself."""

    index: int
    name: str
    method: str
    node: Node
    own: Node
    written: str
    """Its name in the recipe. A curriculum becomes several stages with names of their own."""
    broken: bool = False
    """It should have become a chain, but its settings are wrong."""


def strip_nulls(node: Node, path: tuple[str, ...] = ()) -> Node:
    """The tree without the keys whose value is null, save where that says something."""
    if not isinstance(node.value, dict):
        return node
    kept = {k: v for k, v in node.value.items() if v.value is not None or null_says((*path, k))}
    return replace(node, value={k: strip_nulls(v, (*path, k)) for k, v in kept.items()})


def merge(base: Node, over: Node, path: tuple[str, ...] = ()) -> Node:
    """`over` on top of `base`: maps deep (of one kind), everything else replaces, null removes."""
    if not over.is_map:
        return over
    base = long_form(base, path)
    if not base.is_map or other_kind(base, over, path):
        return strip_nulls(over, path)
    items = dict(base.value)
    for key, child in over.value.items():
        if child.value is None and not null_says((*path, key)):
            items.pop(key, None)
        elif key in items:
            items[key] = merge(items[key], child, (*path, key))
        else:
            items[key] = strip_nulls(child, (*path, key))
    return replace(over, value=items)


def normalise(root: Node) -> tuple[Node, list[Found]]:
    """The recipe with every stage written as a map (`- sft` is short for `- method: sft`)."""
    stages = root.get(STAGES)
    if stages is None or stages.value is None:
        return root.without(STAGES), []
    problems: list[Found] = []
    if not isinstance(stages.value, list) or not stages.value:
        message = f"{shown(stages.plain())}: expected a list of stages"
        problems.append(
            (stages.mark, Problem(message, str(stages.mark), STAGES, "write - method: sft under it"))
        )
        return root.with_child(STAGES, replace(stages, value=[])), problems
    items: list[Node] = []
    for i, stage in enumerate(stages.value):
        if isinstance(stage.value, str):
            child = replace(stage, path=(STAGES, str(i), "method"))
            items.append(replace(stage, value={"method": child}))
        elif stage.is_map:
            items.append(stage)
        else:
            message = f"{shown(stage.plain())}: a stage is a method's name or a map"
            problems.append((stage.mark, Problem(message, str(stage.mark), f"{STAGES}.{i}")))
    return root.with_child(STAGES, replace(stages, value=items)), problems


def written(root: Node) -> list[Node]:
    """The stages of a normalised recipe as they are written; none of them inherits anything yet."""
    stages = root.get(STAGES)
    if stages is not None:
        return list(stages.value)
    return [replace(root, value={k: v for k, v in root.value.items() if k not in EXPERIMENT_KEYS})]


def names(root: Node) -> list[str]:
    """The stages' names: as said, else the method's, numbered where one repeats."""
    top = root.get("method")
    said: list[tuple[str | None, str]] = []
    for stage in written(root):
        name = stage.get("name") if root.get(STAGES) is not None else None
        method = stage.get("method") or top
        said.append(
            (
                str(name.value) if name and name.value is not None else None,
                str(method.value if method else "stage"),
            )
        )
    taken = {name for name, _ in said if name}
    unsaid = Counter(method for name, method in said if name is None)
    result: list[str] = []
    for name, method in said:
        if name is None:
            name, number = method, 1
            if unsaid[method] > 1 or name in taken:
                while (name := f"{method}-{number}") in taken:
                    number += 1
            taken.add(name)
        result.append(name)
    return result


def by_index(root: Node) -> dict[str, str]:
    """Index in the file, as it stands in paths -> the stage's name."""
    return {own.path[-1]: name for own, name in zip(written(root), names(root), strict=True) if own.path}


def defaults(root: Node) -> Node:
    """What the top says for every stage."""
    said = {k: v for k, v in root.value.items() if k not in EXPERIMENT_KEYS}
    return strip_nulls(replace(root, value=said))


def drafts(root: Node) -> tuple[list[Draft], list[Found]]:
    """Every stage with what it inherits, and the problems of methods and of blocks that it does not read."""
    problems: list[Found] = []
    top = defaults(root)
    several = root.get(STAGES) is not None
    result: list[Draft] = []
    for i, (name, own) in enumerate(zip(names(root), written(root), strict=True)):
        whole = merge(top, own) if several else top
        method = whole.get("method")
        if method is None:
            hint = f"methods: {catalog.listed(sorted(methods.METHODS))}"
            path = ".".join((*own.path, "method"))
            problems.append((own.mark, Problem("missing", str(own.mark), path, _method_hint(own) or hint)))
        elif not isinstance(method.value, str) or method.value not in methods.METHODS:
            problems.append(_unknown_method(method))
        else:
            settings = methods.METHODS[method.value]
            problems += _useless(own, settings) if several else []
            drop = [m for m in methods.METHODS if m != settings.method]
            drop += [key for key, reads in _readers(settings).items() if not reads]
            result.append(Draft(i, name, settings.method, whole.without(*drop), own, name))
    result = _quiet(result)
    problems += _same_names(names(root), written(root))
    return result, problems


def _quiet(drafts: list[Draft]) -> list[Draft]:
    """Noise that stands at the top of a recipe with rollouts is for them: evaluations take it only where they
    say it themselves."""
    if not any(methods.METHODS[d.method].disturbs for d in drafts):
        return drafts
    result: list[Draft] = []
    for draft in drafts:
        latent, own = draft.node.get("latent"), draft.own.get("latent")
        said = own is not None and own.get("noise") is not None
        if latent is None or not latent.is_map or said or methods.METHODS[draft.method].disturbs:
            result.append(draft)
        else:
            result.append(replace(draft, node=draft.node.with_child("latent", latent.without("noise"))))
    return result


def _method_hint(own: Node) -> str | None:
    said = [key for key in own.value if key in methods.METHODS]
    return f"add method: {said[0]}" if len(said) == 1 else None


def _unknown_method(method: Node) -> Found:
    near = catalog.nearest(str(method.value), methods.METHODS)
    known = f"methods: {catalog.listed(sorted(methods.METHODS))}"
    hint = f"did you mean {near}? {known}" if near else known
    message = f"{shown(method.plain())} is not a known method"
    return method.mark, Problem(message, str(method.mark), ".".join(method.path), hint)


def _readers(settings: type[methods.MethodSettings]) -> dict[str, bool]:
    """The blocks that not every method reads, and whether this one does."""
    return {
        "train": settings.trains,
        "validation": settings.trains and not settings.holds_out,
        "sampling": settings.generates,
        "latent": settings.latent,
        "disturbance": settings.disturbs,
        "dataset": settings.reads_dataset,
        "prompt": settings.prompts,
    }


def _useless(own: Node, settings: type[methods.MethodSettings]) -> list[Found]:
    """Blocks written inside a stage whose method never reads them."""
    found: list[Found] = []
    for key, child in own.value.items():
        if child.value is None or key == settings.method:
            continue
        if key in methods.METHODS or not _readers(settings).get(key, True):
            message = f"does nothing in a stage of the method {settings.method}"
            found.append((child.key, Problem(message, str(child.key), ".".join(child.path))))
    return found


def unused_defaults(root: Node, used: Collection[str]) -> list[Found]:
    """Blocks at the top that no stage reads, of those methods."""
    top = defaults(root)
    found: list[Found] = []
    readers = [_readers(methods.METHODS[m]) for m in used]
    for key, child in top.value.items():
        if (key in methods.METHODS and key not in used) or not any(r.get(key, True) for r in readers):
            whose = f"of the method {key}" if key in methods.METHODS else "that reads it"
            message = f"does nothing: there is no stage {whose}"
            found.append((child.key, Problem(message, str(child.key), ".".join(child.path))))
    return found


def _same_names(all_names: list[str], nodes: list[Node]) -> list[Found]:
    found: list[Found] = []
    first: dict[str, Mark] = {}
    for name, node in zip(all_names, nodes, strict=True):
        at = node.get("name") or node
        if name in first:
            hint = f"the first one stands at {first[name]}"
            found.append(
                (at.mark, Problem(f"two stages are named {name!r}", str(at.mark), ".".join(at.path), hint))
            )
        first.setdefault(name, at.mark)
    return found
