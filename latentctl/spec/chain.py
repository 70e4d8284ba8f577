"""A curriculum that is written once becomes a chain of stages, with an evaluation after each if asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from latentctl.errors import Problem
from latentctl.spec import stages
from latentctl.spec.explain import Found
from latentctl.spec.methods import METHODS, TEXT_ONLY, CoconutSettings
from latentctl.spec.recipe import STAGES
from latentctl.spec.short_forms import long_form
from latentctl.spec.stage import MAX_STAGE_NAME, STAGE_NAME
from latentctl.spec.stages import Draft
from latentctl.spec.yaml_marks import Mark, Node

EACH_KEYS = ("dataset", "eval", "latent", "prompt", "resources", "sampling")
"""What `coconut.eval_each` may say of the evaluations."""
_UNSAID = Mark(-1, 0, 0, "default")
_LENGTHS = {"epochs": "epochs", "optimizer_steps": "steps"}
"""A key of the method's block -> the key of `train` that it becomes in each link."""


@dataclass(frozen=True)
class _Link:
    """One stage of a curriculum."""

    name: str
    stage: int | None
    key: str | None = None
    """`epochs` or `steps` of `train`, where the curriculum says them."""
    length: float | None = None
    said: Node | None = None
    """Where `length` was written."""


def expand(root: Node, drafts: Sequence[Draft]) -> tuple[list[Draft], list[Found]]:
    """Every curriculum as its chain, the other stages as they are, numbered anew.

    A stage whose settings are wrong stays one stage, `broken`: what is wrong is told when it is validated.
    """
    result: list[Draft] = []
    found: list[Found] = []
    for draft in drafts:
        if draft.method != CoconutSettings.method:
            result.append(draft)
            continue
        chain, new = _chain(root, draft)
        result += [replace(draft, broken=True)] if chain is None else chain
        found += [*new, *_unread(draft, drafts)]
    return [replace(d, index=i) for i, d in enumerate(result)], found + _taken(result)


def _chain(root: Node, draft: Draft) -> tuple[list[Draft] | None, list[Found]]:
    settings = _settings(draft)
    if settings is None or not re.fullmatch(STAGE_NAME, draft.name):
        return None, []
    links, found = _links(draft, settings)
    found += _twice(draft, settings)
    if found:
        return None, found
    evaluated = settings.eval_each is not False
    longest = max((f"{link.name}-eval" if evaluated else link.name for link in links), key=len)
    if len(links) > 1 and len(longest) > MAX_STAGE_NAME:
        at = draft.node.get("name") or draft.own
        words = f"{longest!r}, a stage of this curriculum, is longer than {MAX_STAGE_NAME} signs"
        return None, [(at.mark, Problem(words, str(at.mark), ".".join(at.path), "give a shorter name"))]
    chain: list[Draft] = []
    for i, link in enumerate(links):
        chain.append(replace(draft, name=link.name, node=_training(draft, settings, link, first=i == 0)))
        if evaluated:
            name = f"{link.name}-eval"
            chain.append(replace(draft, name=name, method="eval", node=_evaluation(root, draft, name)))
    return chain, []


def _settings(draft: Draft) -> CoconutSettings | None:
    block = draft.node.get(draft.method)
    try:
        return CoconutSettings.model_validate({} if block is None else block.plain())
    except ValidationError:
        return None


def _links(draft: Draft, settings: CoconutSettings) -> tuple[list[_Link], list[Found]]:
    """The curriculum's stages with their lengths, and what is wrong with the list of those."""
    numbers = settings.stages()
    names = [f"{draft.name}.{n}" for n in numbers] if settings.chained else [draft.name]
    key = next((k for k in _LENGTHS if getattr(settings, k) is not None), None)
    if key is None:
        return [_Link(n, s) for n, s in zip(names, numbers, strict=True)], []
    block = draft.node.get(draft.method)
    node = block.get(key) if block else None
    assert node is not None
    lengths = getattr(settings, key)
    if not isinstance(lengths, list):
        lengths = [lengths] * len(numbers)
    if len(lengths) > len(numbers):
        return [], [_too_many(node, key, lengths, settings)]
    marks = node.value if isinstance(node.value, list) else [node] * len(lengths)
    every = zip(names, numbers, lengths, marks, strict=False)
    return [_Link(n, s, _LENGTHS[key], length, at) for n, s, length, at in every], []


def _too_many(node: Node, key: str, lengths: list[float], settings: CoconutSettings) -> Found:
    allowed = settings.stages()
    at = node.value[len(allowed)] if isinstance(node.value, list) else node
    if settings.chained:
        which = f"the stages {allowed[0]} to {allowed[-1]}" if len(allowed) > 1 else f"the stage {allowed[0]}"
        hint = f"at most {len(allowed)} {'entries' if len(allowed) > 1 else 'entry'}; "
        hint += f"the last stage is max_stage + 1 = {settings.max_stage + 1}"
    else:
        which, hint = "one stage without a curriculum", "give one entry"
    words = f"{len(lengths)} entries of {key} for {which}"
    return at.mark, Problem(words, str(at.mark), ".".join(node.path), hint)


def _twice(draft: Draft, settings: CoconutSettings) -> list[Found]:
    """`train.epochs` written in the same stage as the lengths of its curriculum."""
    train = draft.own.get("train")
    said = next((k for k in _LENGTHS if getattr(settings, k) is not None), None)
    found: list[Found] = []
    for key in _LENGTHS.values():
        node = train.get(key) if said and train else None
        if node is not None and node.value is not None:
            words = f"does nothing: {draft.method}.{said} says the length of every stage"
            problem = Problem(words, str(node.key), ".".join(node.path), "leave one of the two out")
            found.append((node.key, problem))
    return found


def _unread(draft: Draft, drafts: Sequence[Draft]) -> list[Found]:
    """What a stage says of latent steps that nothing of it reads."""
    said, block, latent = draft.own.get("latent"), draft.node.get(draft.method), draft.node.get("latent")
    variant = block.get("variant") if block else None
    if said is not None and said.value is not None and variant is not None and variant.value in TEXT_ONLY:
        words = f"does nothing in the variant {variant.value}: it takes no latent steps"
        return [(said.key, Problem(words, str(said.key), ".".join(said.path)))]
    noise = latent.get("noise") if latent else None
    own = said is not None and said.get("noise") is not None
    if noise is None or not (own or all(not METHODS[d.method].generates for d in drafts)):
        return []  # nothing is said, or an evaluation of the recipe reads it
    words = "does nothing in training"
    hint = "noise of the evaluations goes into coconut.eval_each: {latent: {noise: ...}}"
    return [(noise.key, Problem(words, str(noise.key), ".".join(noise.path), hint))]


def _put(node: Node, key: str, value: object, mark: Mark) -> Node:
    """A map with a value that was written at `mark`."""
    path = (*node.path, key)
    if isinstance(value, dict):
        value = {k: Node(v, mark, mark, (*path, k)) for k, v in value.items()}
    return node.with_child(key, Node(value, mark, mark, path))


def _below(node: Node, key: str) -> Node:
    """What stands under `key`; an empty map where there is nothing."""
    return node.get(key) or Node({}, _UNSAID, _UNSAID, (*node.path, key))


def _training(draft: Draft, settings: CoconutSettings, link: _Link, *, first: bool) -> Node:
    """The stage of one link: its number, its length, and where it starts."""
    node = draft.node if first else draft.node.without("from")
    at = link.said.mark if link.said else draft.own.mark
    block = _below(node, draft.method).without(*_LENGTHS, "eval_each")
    if link.stage is not None and settings.stage is None:
        block = _put(block, "stage", link.stage, at)
    node = node.with_child(draft.method, block)
    train = _below(node, "train")
    if link.said and link.key and train.is_map:
        train = replace(train.without(*_LENGTHS.values()), mark=at)
        node = node.with_child("train", _put(train, link.key, link.length, at))
    if link.name != draft.name:
        name = node.get("name")
        node = _put(node, "name", link.name, name.mark if name else _UNSAID)
    if settings.variant != "coconut":
        return node.without("latent")
    latent = _below(node, "latent")
    if not latent.is_map:
        return node
    for key, unsaid in (("input", {"kind": "hidden"}), ("markers", "coconut")):
        latent = latent if latent.get(key) else _put(latent, key, unsaid, _UNSAID)
    return node.with_child("latent", latent.without("noise"))


def _evaluation(root: Node, draft: Draft, name: str) -> Node:
    """The evaluation after a link: what the recipe says for every stage, this stage's own data, and on top
    what `eval_each` says. Latent settings are the checkpoint's."""
    whole = stages.defaults(root)
    if root.get(STAGES) is not None:
        whole = stages.merge(whole, draft.own)
    problems = whole.get("validation")
    data = long_form(problems or _below(whole, "dataset"), ("dataset",))
    if problems is None:
        data = data.without("split") if data.is_map else data
    elif data.is_map and data.get("split") is None:
        data = _put(data, "split", "valid", _UNSAID)
    foreign = set(METHODS) - {"eval"}
    node = whole.without("name", "from", "train", "validation", "latent", *foreign)
    node = _put(_put(node, "name", name, _UNSAID), "method", "eval", draft.own.mark)
    if whole.get("dataset") or problems:
        node = node.with_child("dataset", data)
    block = draft.node.get(draft.method)
    each = block.get("eval_each") if block else None
    if each is None or not each.is_map:
        return node
    return stages.merge(node, each.without(*(k for k in each.value if k not in EACH_KEYS)))


def _taken(drafts: Sequence[Draft]) -> list[Found]:
    """Names of a chain that another stage has."""
    found: list[Found] = []
    first: dict[str, Draft] = {}
    for draft in drafts:
        other = first.setdefault(draft.name, draft)
        if other.written != draft.written:
            made, plain = (draft, other) if draft.name != draft.written else (other, draft)
            at = plain.own.get("name") or plain.own
            words = f"the name {draft.name!r} is one of the chain that {made.written} becomes"
            found.append((at.mark, Problem(words, str(at.mark), ".".join(at.path), "give another name")))
    return found
