"""A recipe's tree becomes a validated experiment, every value with its origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from latentctl.spec import chain, links, local_paths, methods, reads, stages
from latentctl.spec.contradictions import dataset_names, idle_options, merge_missing, training
from latentctl.spec.divergence_rules import divergence
from latentctl.spec.engine_rules import engine, text_alone
from latentctl.spec.experiment import Experiment
from latentctl.spec.explain import Found
from latentctl.spec.findings import Invalid
from latentctl.spec.grpo_rules import grpo
from latentctl.spec.latent_rules import latent, unsettled
from latentctl.spec.overrides import Override
from latentctl.spec.recipe import STAGES, RecipeTop
from latentctl.spec.reward_rules import rewards
from latentctl.spec.short_forms import SHORT_FORMS, long_form
from latentctl.spec.stage import StageBase
from latentctl.spec.stages import Draft
from latentctl.spec.tree_rules import searching
from latentctl.spec.validate import validate
from latentctl.spec.yaml_marks import Mark, Node


class Part(NamedTuple):
    """One point of a sweep that shares a run with others."""

    stage: str
    varies: dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One experiment of a recipe."""

    experiment: Experiment
    provenance: dict[str, str]
    """Dotted resolved key (`stages.sft.train.lr`) -> `recipe.yaml:14:9`, `--set train.lr` or `default`."""
    varies: dict[str, Any] = field(default_factory=dict)
    """What this sweep point and seed changed: dotted key -> value."""
    parts: tuple[Part, ...] = ()
    """Of several points in one: what each is."""


def validate_top(root: Node) -> tuple[RecipeTop | None, list[Found]]:
    """What is said once for the whole experiment."""
    said = {k: v for k, v in root.value.items() if k in RecipeTop.model_fields}
    return validate(stages.strip_nulls(replace(root, value=said)), RecipeTop)


def resolve(
    root: Node,
    top: RecipeTop,
    *,
    seed: int,
    varies: dict[str, Any] | None = None,
    options: Sequence[Override] = (),
) -> Point:
    """One experiment from a normalised tree; `top.name` is said. Raises Invalid with all that is wrong with
    its stages, or with `options` that reach none of them."""
    if not stages.written(root):
        raise Invalid([])  # `stages` itself is wrong, which was said before
    written, found = stages.drafts(root)
    complete = len(written) == len(stages.written(root))
    drafts, new = chain.expand(root, written)
    found += new
    if complete:
        found += stages.unused_defaults(root, {d.method for d in drafts})
    sources, new = links.link(drafts) if complete else (["model"] * len(drafts), [])
    found += new
    drafts, new = reads.settle(drafts) if complete else (drafts, [])
    found += new
    shared = stages.defaults(root) if root.get(STAGES) is not None else None
    built: list[StageBase] = []
    trees: list[Node] = []
    for draft, source in zip(drafts, sources, strict=True):
        stage, tree, new = _stage(draft, source)
        found += [*new, *_shadowed(shared, draft)]
        if stage is not None and not top.plugins:  # a plugin may bring any dataset
            found += dataset_names(stage, draft)
        trees.append(tree)
        built += [stage] if stage else []
    if len(built) == len(drafts):
        found += unsettled(built, drafts) + text_alone(built, drafts) + rewards(built, drafts)
    found = merge_missing(found, root, len(written))
    blocks = [block for d in written if (block := d.node.get(d.method))]  # of a chain, before it became one
    found = found or idle_options(options, root, [*trees, *blocks])
    if found:
        raise Invalid(found)
    said = {k: getattr(top, k) for k in ("schema_version", "name", "jobs", "plugins", "wandb")}
    experiment = Experiment(seed=seed, stages=built, **said)
    return Point(experiment, _provenance(experiment, root, trees), varies or {})


def _stage(draft: Draft, source: str) -> tuple[StageBase | None, Node, list[Found]]:
    tree, found = local_paths.settle(draft.node)
    tree = _with_defaults(draft, tree, source)
    stage, new = validate(tree, methods.stage_model(draft.method))
    found += new
    if stage is not None:
        for rules in (training, latent, engine, grpo, searching, divergence):
            found += rules(stage, draft)
    return stage, tree, found


def _shadowed(top: Node | None, draft: Draft) -> list[Found]:
    """Wrong values at the top (None: there is nothing beside it) that this stage replaces: wrong all the
    same."""
    if top is None:
        return []
    hidden = {k: v for k, v in top.value.items() if (now := draft.node.get(k)) is not None and now is not v}
    if not hidden:
        return []
    return validate(replace(top, value=hidden), methods.stage_model(draft.method), leaves_only=True)[1]


def _with_defaults(draft: Draft, tree: Node, source: str) -> Node:
    """The stage's tree with its name, its resolved `from`, and the split of its datasets."""
    unsaid = Mark(-1, 0, 0, "default")

    def put(node: Node, key: str, value: str) -> Node:
        old = node.get(key)
        new = replace(old, value=value) if old else Node(value, unsaid, unsaid, (*node.path, key))
        return node.with_child(key, new)

    if tree.get("name") is None:
        tree = put(tree, "name", draft.name)
    if tree.get(draft.method) is None:
        at = draft.own.mark
        tree = tree.with_child(draft.method, Node({}, at, at, (*draft.own.path, draft.method)))
    said = tree.get("from")
    if said is None or (isinstance(said.value, str) and said.value):
        tree = put(tree, "from", source)
    splits = {"validation": "valid"} | ({"dataset": "test"} if draft.method == "eval" else {})
    for key, split in splits.items():
        block = tree.get(key)
        block = long_form(block, (key,)) if block else None
        if block is not None and block.is_map and block.get("split") is None:
            tree = tree.with_child(key, put(block, "split", split))
    return tree


def _provenance(experiment: Experiment, root: Node, trees: list[Node]) -> dict[str, str]:
    dump = experiment.dump()
    origins: dict[str, str] = {}
    for key, value in dump.items():
        if key != STAGES:
            _origins(value, root.get(key), (key,), "", origins)
    if seeds := root.get("seeds"):
        origins["seed"] = str(seeds.mark)
    for stage, tree, data in zip(experiment.stages, trees, dump[STAGES], strict=True):
        for key, value in data.items():
            _origins(value, tree.get(key), (key,), f"{STAGES}.{stage.name}.", origins)
    return origins


def _origins(
    value: Any, node: Node | None, path: tuple[str, ...], prefix: str, origins: dict[str, str]
) -> None:
    """Where each leaf of a resolved value was written; a short form's value stands for its key."""
    if not isinstance(value, dict) or not value:
        origins[prefix + ".".join(path)] = "default" if node is None else str(node.mark)
        return
    for key, child in value.items():
        key = str(key)
        if node is None or node.is_map:
            below = None if node is None else node.get(key)
        else:
            short = SHORT_FORMS.get(path)
            below = node if short is None or key in (short, "path") else None
        _origins(child, below, (*path, key), prefix, origins)
