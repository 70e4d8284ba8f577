"""`--set a.b.c=value`: put one value into a recipe's tree, as if it had been written there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from latentctl.errors import Problem
from latentctl.spec import catalog, stages
from latentctl.spec.explain import Found
from latentctl.spec.recipe import EXPERIMENT_KEYS, STAGES
from latentctl.spec.short_forms import long_form
from latentctl.spec.yaml_marks import Mark, Node, YamlProblems, at_path, parse


class OverrideProblem(Exception):
    """One override cannot be applied."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.text())


@dataclass(frozen=True)
class Override:
    """A value for a dotted key. `value.mark.source` is the option as provenance shows it."""

    path: tuple[str, ...]
    value: Node

    @property
    def key(self) -> str:
        return ".".join(self.path)


def parse_override(text: str, rank: int, option: str = "--set") -> Override:
    """`train.lr=1e-4`; the value is YAML, an empty one is null. Raises OverrideProblem."""
    key, sign, value = text.partition("=")
    key = key.strip()
    where = f"{option} {key}"
    if not sign or not key or any(not part for part in key.split(".")):
        hint = f"write it like {option} train.lr=1e-4"
        raise OverrideProblem(Problem(f"{text!r} is not KEY=VALUE", option, None, hint))
    path = tuple(key.split("."))
    mark = Mark(rank, 0, 0, where)
    try:
        node = parse(value, where, rank=rank, lines=False)
    except YamlProblems as error:
        problem = error.problems[0][1]
        raise OverrideProblem(
            Problem(problem.message, where, None, "quote a value that is not plain YAML")
        ) from None
    return Override(path, at_path(node or Node(None, mark, mark), path))


def _insert(node: Node, path: tuple[str, ...], new: Node, done: tuple[str, ...]) -> Node:
    """A copy of `node` with `new` at `path`; missing maps are made, a scalar in the way becomes a map."""
    if not path:
        return replace(new, path=node.path) if new.path != node.path and node.path else new
    node = long_form(node, done)
    items = node.value if isinstance(node.value, dict) else {}
    child = items.get(path[0]) or Node({}, new.mark, new.mark, (*node.path, path[0]))
    value = {**items, path[0]: _insert(child, path[1:], new, (*done, path[0]))}
    kept = node if node.is_map else replace(node, mark=new.mark)
    return replace(kept, value=value)


def apply_all(root: Node, overrides: Sequence[Override]) -> tuple[Node, list[Found]]:
    """A normalised recipe with every override in it, in order, and a finding for each that cannot be
    applied."""
    found: list[Found] = []
    for one in overrides:
        try:
            root = apply(root, one, stages.names(root))
        except OverrideProblem as error:
            found.append((one.value.mark, error.problem))
            continue
        if one.path[0] == STAGES and len(one.path) < 3:
            root, new = stages.normalise(root)
            found += new
    return root, found


def apply(root: Node, override: Override, names: Sequence[str]) -> Node:
    """The recipe's tree with the override in it. `names` are its stages, in order; the root's `stages` is a
    list of maps where there is one. Raises OverrideProblem for a stage that does not exist."""
    path = override.path
    if path[0] != STAGES or len(path) == 1:
        return _insert(root, path, override.value, ())
    index, rest = _stage(override, names)
    listed = root.get(STAGES)
    if listed is None:
        return _one_stage(root, override, rest)
    target = listed.value[index]
    new = _insert(target, rest, at_path(override.value, (*target.path, *rest)), ())
    items = [new if i == index else s for i, s in enumerate(listed.value)]
    return root.with_child(STAGES, replace(listed, value=items))


def _one_stage(root: Node, override: Override, rest: tuple[str, ...]) -> Node:
    if not rest or rest[0] in EXPERIMENT_KEYS:
        message = "this recipe has one stage, written at its top"
        raise OverrideProblem(
            Problem(message, override.value.mark.source, None, "set the key without stages.<name>")
        )
    return _insert(root, rest, at_path(override.value, rest), ())


def _one_link(override: Override, name: str, rest: Sequence[str]) -> Problem:
    message = f"one stage of the chain that {name} becomes cannot be set alone"
    hint = f"all of them: stages.{'.'.join((name, *rest))}"
    return Problem(message, override.value.mark.source, override.key, hint)


def _stage(override: Override, names: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """Which stage a path `stages.<name or index>...` means, and the path within it. Names may hold dots."""
    rest = override.path[1:]
    for length in range(len(rest), 0, -1):
        if (name := ".".join(rest[:length])) in names:
            if len(rest) > length and rest[length].isdigit():
                raise OverrideProblem(_one_link(override, name, rest[length + 1 :]))
            return list(names).index(name), rest[length:]
    if rest[0].isdigit() and int(rest[0]) < len(names):
        return int(rest[0]), rest[1:]
    near = catalog.nearest(rest[0], names)
    hint = (
        f"did you mean stages.{near}?"
        if near
        else f"its stages: {', '.join(names)} (or 0 to {len(names) - 1})"
    )
    raise OverrideProblem(
        Problem(f"there is no stage {rest[0]!r}", override.value.mark.source, override.key, hint)
    )
