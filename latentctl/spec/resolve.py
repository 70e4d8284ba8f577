"""A recipe's tree becomes validated experiments: one for each sweep point and seed, every value with its origin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from latentctl.errors import Problem, UserError
from latentctl.spec import catalog, links, local_paths, methods, stages
from latentctl.spec.base import Spec
from latentctl.spec.experiment import RUN_NAME, Experiment
from latentctl.spec.explain import Found, explain, shown
from latentctl.spec.overrides import Override, OverrideProblem, apply
from latentctl.spec.plugins import load_plugin
from latentctl.spec.recipe import EXPERIMENT_KEYS, STAGES, RecipeTop
from latentctl.spec.stage import StageBase
from latentctl.spec.stages import Draft
from latentctl.spec.unknown_keys import unknown_keys
from latentctl.spec.yaml_marks import Mark, Node

AnySpec = TypeVar("AnySpec", bound=Spec)


class Invalid(Exception):
    """Carries every problem found, placed."""

    def __init__(self, problems: list[Found]) -> None:
        self.problems = problems
        super().__init__(f"{len(problems)} problems")


@dataclass(frozen=True)
class Point:
    """One experiment of a recipe."""

    experiment: Experiment
    provenance: dict[str, str]
    """Dotted resolved key (`stages.sft.train.lr`) -> `recipe.yaml:14:9`, `--set train.lr` or `default`."""
    varies: dict[str, Any] = field(default_factory=dict)
    """What this sweep point and seed changed: dotted key -> value."""


def validate(node: Node, model: type[AnySpec]) -> tuple[AnySpec | None, list[Found]]:
    """The model's instance, or everything that is wrong. What a block says of its keys together is judged even if some
    of its keys are wrong, as long as it does not concern those."""
    found: list[Found] = []
    plain, removed = node.plain(), set[str]()
    for _ in range(4):
        try:
            instance = model.model_validate(plain)
            return (None if found else instance), found
        except ValidationError as error:
            new = [f for f in explain(error, node, [model]) if not _follows(f[1], removed)]
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


@dataclass(frozen=True)
class Resolver:
    """Resolves trees of one recipe. `default_name` is what the experiment is called where the recipe is silent."""

    default_name: str
    check_unused: tuple[Override, ...] = ()

    def top(self, root: Node) -> tuple[RecipeTop | None, list[Found]]:
        """What is said once, validated; plugins imported."""
        said = {k: v for k, v in root.value.items() if k in RecipeTop.model_fields and v.value is not None}
        top, problems = validate(replace(root, value=said), RecipeTop)
        seed, seeds = root.get("seed"), root.get("seeds")
        if top and top.seed is not None and top.seeds is not None and seed and seeds:
            hint = f"seeds stands at {seeds.key}"
            problems.append((seed.key, Problem("give seed or seeds, not both", str(seed.key), "seed", hint)))
        return top, problems

    def point(self, root: Node, top: RecipeTop, seed: int | None, varies: dict[str, Any]) -> Point:
        """One experiment. Raises Invalid."""
        drafts, problems = stages.drafts(root)
        if problems and len(drafts) < len(stages.written(root)):
            raise Invalid(problems + self._other_stages(drafts))
        sources, found = links.link(drafts)
        problems += found
        built: list[StageBase] = []
        trees: list[Node] = []
        for draft, source in zip(drafts, sources, strict=True):
            stage, tree, found = self._stage(draft, source)
            problems += found
            trees.append(tree)
            built += [stage] if stage else []
        problems = _merge_missing(problems, root, len(drafts))
        problems += _idle(self.check_unused, root, trees) if not problems else []
        if problems:
            raise Invalid(problems)
        said = {k: getattr(top, k) for k in ("schema_version", "jobs", "plugins", "wandb")}
        name = top.name or self.default_name
        experiment = Experiment(name=name, seed=seed or 0, stages=built, **said)
        return Point(experiment, _provenance(experiment, root, trees, built), varies)

    def _other_stages(self, drafts: list[Draft]) -> list[Found]:
        """What is wrong inside of stages whose method is known, though another stage's is not."""
        return [f for draft in drafts for f in self._stage(draft, "model")[2]]

    def _stage(self, draft: Draft, source: str) -> tuple[StageBase | None, Node, list[Found]]:
        model = methods.stage_model(draft.method)
        tree, problems = local_paths.settle(draft.node)
        filled = _with_defaults(draft, tree, source)
        stage, found = validate(filled, model)
        problems += [f for f in found if f[1].message != "unknown key"]
        if stage is not None:
            problems += _training(stage, draft)
        return stage, filled, problems


def _with_defaults(draft: Draft, tree: Node, source: str) -> Node:
    """The stage's tree with its name, its resolved `from`, and an evaluation's split."""
    unsaid = Mark(-1, 0, 0, "default")

    def put(node: Node, key: str, value: str) -> Node:
        old = node.get(key)
        new = replace(old, value=value) if old else Node(value, unsaid, unsaid, (*node.path, key))
        return node.with_child(key, new)

    own_name = draft.own.get("name")
    tree = (
        tree.with_child("name", own_name)
        if own_name and own_name.value is not None
        else put(tree, "name", draft.name)
    )
    said = tree.get("from")
    if said is None or isinstance(said.value, str):
        tree = put(tree, "from", source) if not (said and said.value == "") else tree
    dataset = tree.get("dataset")
    if draft.method == "eval" and dataset is not None:
        dataset = stages.long_form(dataset, ("dataset",))
        if dataset.is_map and dataset.get("split") is None:
            tree = tree.with_child("dataset", put(dataset, "split", "test"))
    return tree


def _training(stage: StageBase, draft: Draft) -> list[Found]:
    """Contradictions between a training's blocks."""
    settings = methods.METHODS[draft.method]
    if not settings.trains:
        return []
    found: list[Found] = []

    def say(path: tuple[str, ...], message: str, hint: str | None) -> None:
        node, last = draft.node, draft.node
        for key in path:
            last = node.get(key) or last
            node = node.get(key) or node
        found.append((last.key, Problem(message, str(last.key), ".".join(last.path), hint)))

    train = stage.train
    if train.eval_every is not None and stage.validation is None:
        say(
            ("train", "eval_every"),
            "does nothing without validation problems",
            "add e.g. validation: {name: ..., split: valid}",
        )
    if stage.validation is not None and train.eval_every is None:
        say(
            ("validation",),
            "does nothing without train.eval_every",
            "set train.eval_every to a number of steps",
        )
    named = {("train", "keep", "best"): train.keep.best}
    named[("train", "early_stop", "metric")] = train.early_stop.metric if train.early_stop else None
    for path, metric in named.items():
        if metric is not None and metric not in settings.metrics:
            near = catalog.nearest(metric, settings.metrics)
            allowed = (
                f"expected one of {catalog.listed(settings.metrics)}"
                if settings.metrics
                else "the method has none"
            )
            hint = f"did you mean {near}?" if near else None
            say(path, f"{shown(metric)} is not a validation metric of {draft.method}: {allowed}", hint)
    return found


def _merge_missing(problems: list[Found], root: Node, count: int) -> list[Found]:
    """One problem instead of one for each stage where all of them lack the same key."""
    result: list[Found] = []
    lacking: dict[str, list[Found]] = {}
    for item in problems:
        key = item[1].key or ""
        if item[1].message == "missing" and (m := re.fullmatch(r"stages\.\d+\.(\w+)", key)):
            lacking.setdefault(m[1], []).append(item)
        else:
            result.append(item)
    for key, items in lacking.items():
        if len(items) == count and count > 1:
            hint = "say it once at the top: every stage inherits it"
            result.append((root.mark, Problem("missing in every stage", str(root.mark), key, hint)))
        else:
            result += items
    return result


def _idle(overrides: tuple[Override, ...], root: Node, trees: list[Node]) -> list[Found]:
    """Overrides that reach no stage, because every stage says the key itself."""
    used = {node.mark for tree in trees for node in tree.walk()}
    used |= {n.mark for k, v in root.value.items() if k in EXPERIMENT_KEYS and k != STAGES for n in v.walk()}
    found: list[Found] = []
    for i, one in enumerate(overrides):
        later = any(o.path == one.path[: len(o.path)] for o in overrides[i + 1 :])
        marks = {n.mark for n in one.value.walk()}
        if one.value.value is None or later or marks & used:
            continue
        mark = one.value.mark
        hint = f"set it in a stage: stages.<name>.{one.key}"
        found.append(
            (mark, Problem("does nothing: every stage says this key itself", str(mark), one.key, hint))
        )
    return found


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(child, (*path, str(key)))
    else:
        yield path


def _origin(node: Node | None, path: tuple[str, ...]) -> str:
    """Where the value of a resolved key was written; a short form's value stands for its key."""
    for i, key in enumerate(path):
        if node is None:
            return "default"
        if not node.is_map:
            short = stages.SHORT_FORMS.get(path[:i])
            return str(node.mark) if short is None or key == short or key == "path" else "default"
        node = node.get(key)
    return str(node.mark) if node is not None else "default"


def _provenance(
    experiment: Experiment, root: Node, trees: list[Node], built: list[StageBase]
) -> dict[str, str]:
    dump = experiment.dump()
    origins: dict[str, str] = {}
    for path in _leaves({k: v for k, v in dump.items() if k != STAGES}):
        at = _origin(root, path)
        if path == ("seed",) and (seeds := root.get("seeds")):
            at = str(seeds.mark)
        origins[".".join(path)] = at
    for stage, tree, data in zip(built, trees, dump[STAGES], strict=True):
        for path in _leaves(data):
            origins[".".join((STAGES, stage.name, *path))] = _origin(tree, path)
    return origins


def load_plugins(root: Node, problems: list[Found]) -> Node:
    """Import the files under `plugins:` and make them absolute, so that their methods are known."""
    listed = root.get("plugins")
    if listed is None or not isinstance(listed.value, list):
        return root
    placed: list[Node] = []
    for item in listed.value:
        placed.append(item)
        if not isinstance(item.value, str):
            continue
        path = Path(item.value).expanduser().absolute()
        where, key = str(item.mark), ".".join(item.path)
        if not path.is_file() or path.suffix != ".py":
            reason = "no such file" if not path.exists() else "a plugin is a Python file (.py)"
            problems.append((item.mark, Problem(f"{shown(item.value)}: {reason}", where, key)))
            continue
        try:
            load_plugin(path)
        except UserError as error:
            problems += [
                (item.mark, Problem(p.message, p.where, key, f"named at {where}")) for p in error.problems
            ]
        placed[-1] = replace(item, value=str(path))
    return root.with_child("plugins", replace(listed, value=placed))


def overridden(root: Node, overrides: Sequence[Override]) -> tuple[Node, list[Found]]:
    """The tree with every override in it, in order, and a problem for each that cannot be applied."""
    problems: list[Found] = []
    for one in overrides:
        try:
            root = apply(root, one, stages.names(root))
        except OverrideProblem as error:
            problems.append((one.value.mark, error.problem))
            continue
        if one.path[0] == STAGES and len(one.path) < 3:
            root, found = stages.normalise(root)
            problems += found
    return root, problems


def known_keys(root: Node) -> list[Found]:
    """Every unknown key of the recipe, at every level."""
    stages.known_method(root)
    return unknown_keys(root)


__all__ = ["RUN_NAME", "Invalid", "Point", "Resolver", "known_keys", "load_plugins", "overridden", "validate"]
