"""What a stage's settings read of other stages besides their weights: data sets and divergence models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from latentctl.errors import Problem
from latentctl.record.atomic import try_read_json
from latentctl.record.paths import JUDGE
from latentctl.spec import catalog
from latentctl.spec.explain import Found, shown
from latentctl.spec.links import RUN, chains, made_elsewhere
from latentctl.spec.local_paths import ABSENT, look_up
from latentctl.spec.methods import METHODS, MethodSettings
from latentctl.spec.source import parse_source
from latentctl.spec.stages import Draft
from latentctl.spec.yaml_marks import Node


def said(settings: MethodSettings) -> Iterator[tuple[str, str]]:
    """(dotted key, what it names) of all that the settings read."""
    for path, _ in type(settings).sources:
        value: Any = settings
        for key in path:
            value = getattr(value, key, None)
        texts = value if isinstance(value, list) else [] if value is None else [value]
        yield from ((".".join((settings.method, *path)), text) for text in texts)


def settle(drafts: Sequence[Draft]) -> tuple[list[Draft], list[Found]]:
    """The drafts with absolute paths and the last links of chains, and what is wrong with what they name."""
    result: list[Draft] = []
    found: list[Found] = []
    for draft in drafts:
        node = draft.node
        for path, wanted in METHODS[draft.method].sources:
            node, new = _within(node, (draft.method, *path), drafts, draft, wanted)
            found += new
        result.append(replace(draft, node=node))
    return result, found


def _within(
    node: Node, path: tuple[str, ...], drafts: Sequence[Draft], at: Draft, wanted: str
) -> tuple[Node, list[Found]]:
    if not path:
        many = node.value if isinstance(node.value, list) else [node]
        pairs = [_one(each, drafts, at, wanted) for each in many]
        found = [f for _, new in pairs for f in new]
        nodes = [n for n, _ in pairs]
        return (replace(node, value=nodes) if isinstance(node.value, list) else nodes[0]), found
    child = node.get(path[0])
    if child is None:
        return node, []
    child, found = _within(child, path[1:], drafts, at, wanted)
    return node.with_child(path[0], child), found


def _one(node: Node, drafts: Sequence[Draft], at: Draft, wanted: str) -> tuple[Node, list[Found]]:
    text = node.value
    if not isinstance(text, str) or not text:
        return node, []  # its type is judged with the stage's other keys
    names, ends = [d.name for d in drafts], chains(drafts)

    def problem(message: str, hint: str | None = None) -> tuple[Node, list[Found]]:
        key = ".".join(node.path)
        return node, [(node.mark, Problem(f"{shown(text)}: {message}", str(node.mark), key, hint))]

    source = parse_source(text, [*names, *ends])
    if source.which is not None and wanted == "dataset":
        return problem("a data set has no checkpoints", f"write {text.partition('@')[0]}")
    if source.kind == "run":
        return (node, []) if RUN.fullmatch(text) else problem("expected run:ID/STAGE")
    if source.kind == "stage" and source.stage is not None:
        name = source.stage if source.stage in names else ends[source.stage]
        target = drafts[names.index(name)]
        if target.index >= at.index:
            return problem(f"the stage {target.name} comes later", "a stage reads what an earlier one made")
        if METHODS[target.method].output != wanted:
            method = {"dataset": "divergence-data", "judge": "divergence"}[wanted]
            otherwise = f"add a stage of the method {method} before it"
            return problem(*made_elsewhere(drafts[: at.index], target, wanted, otherwise))
        return replace(node, value=name + text[len(source.stage) :]), []
    path, reason = look_up(text)
    if text == "model" or reason == ABSENT:
        near = catalog.nearest(text.partition("@")[0], names[: at.index])
        hint = f"did you mean {near}?" if near else "an earlier stage, run:ID/STAGE, or a path"
        return problem("there is no such stage, and no such file or directory", hint)
    if reason is not None:
        return problem(reason)
    if wanted == "judge" and (try_read_json(path / "config.json") or {}).get("model_type") != JUDGE:
        return problem("this is no divergence model", "one that method: divergence trained")
    if wanted == "dataset" and not path.is_file():
        return problem("this is a directory, not a file", "name the .jsonl file in it")
    return replace(node, value=str(path)), []
