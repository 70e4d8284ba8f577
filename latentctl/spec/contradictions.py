"""What is right key by key and wrong together: between the blocks of a stage, and between options and
stages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata

from latentctl.errors import Problem
from latentctl.spec import catalog
from latentctl.spec.dataset import NAMES
from latentctl.spec.explain import Found, shown
from latentctl.spec.methods import METHODS
from latentctl.spec.overrides import Override
from latentctl.spec.recipe import EXPERIMENT_KEYS, STAGES
from latentctl.spec.stage import StageBase
from latentctl.spec.stages import Draft
from latentctl.spec.yaml_marks import Node


def at(draft: Draft, path: tuple[str, ...], message: str, hint: str | None) -> Found:
    """A finding at the deepest part of `path` that is written."""
    node = draft.node
    for key in path:
        node = node.get(key) or node
    return node.key, Problem(message, str(node.key), ".".join(node.path), hint)


def training(stage: StageBase, draft: Draft) -> list[Found]:
    """Between the blocks of a stage that trains: validation, its cadence, and the metrics that others
    name."""
    settings, train = METHODS[draft.method], stage.train
    if not settings.trains:
        return []
    found: list[Found] = []
    if train.eval_every is not None and stage.validation is None and not settings.holds_out:
        hint = "add e.g. validation: {name: gsm8k, split: test, limit: 100}"
        found.append(at(draft, ("train", "eval_every"), "does nothing without validation problems", hint))
    if stage.validation is not None and train.eval_every is None:
        hint = "set train.eval_every to a number of steps"
        found.append(at(draft, ("validation",), "does nothing without train.eval_every", hint))
    trainers = stage.resources.world_size - stage.settings.generators
    if trainers < 1:
        return found  # told where the method's own settings are judged
    uneven = train.uneven(trainers)
    if uneven:
        path = ("train", "micro_batch" if train.batch % trainers == 0 else "batch")
        found.append(at(draft, path, *uneven))
    stop = train.early_stop.metric if train.early_stop else None
    losing = train.stop_losing.metric if train.stop_losing else None
    named = {("keep", "best"): train.keep.best, ("early_stop", "metric"): stop}
    for path, metric in (named | {("stop_losing", "metric"): losing}).items():
        if metric is None or metric in settings.metrics:
            continue
        near = catalog.nearest(metric, settings.metrics)
        allowed = catalog.listed(settings.metrics) or "none"
        message = f"{shown(metric)} is not a validation metric of {draft.method}: expected one of {allowed}"
        found.append(at(draft, ("train", *path), message, f"did you mean {near}?" if near else None))
    return found


def dataset_names(stage: StageBase, draft: Draft) -> list[Found]:
    """Names of datasets that nobody knows. Where packages bring datasets, any name may be theirs."""
    found: list[Found] = []
    for key, block in (("dataset", stage.dataset), ("validation", stage.validation)):
        if block is None or block.name is None or block.name in NAMES:
            continue
        near = catalog.nearest(block.name, NAMES)
        hint = (
            f"did you mean {near}?"
            if near
            else f"known: {catalog.listed(NAMES)}; a file or Hub id goes under path"
        )
        node = draft.node.get(key) or draft.node
        node = node.get("name") or node
        message = f"{shown(block.name)} is not a known dataset"
        found.append((node.mark, Problem(message, str(node.mark), ".".join(node.path), hint)))
    return [] if found and metadata.entry_points(group="latentctl.datasets") else found


def merge_missing(found: list[Found], root: Node, count: int) -> list[Found]:
    """One finding instead of one for each of `count` stages where all of them lack the same key."""
    result: list[Found] = []
    lacking: dict[str, list[Found]] = {}
    for item in found:
        match = re.fullmatch(r"stages\.\d+\.(\w+)", item[1].key or "")
        if match and item[1].message == "missing":
            lacking.setdefault(match[1], []).append(item)
        else:
            result.append(item)
    for key, items in lacking.items():
        if len(items) == count and count > 1:
            hint = "say it once at the top: every stage inherits it"
            result.append((root.mark, Problem("missing in every stage", str(root.mark), key, hint)))
        else:
            result += items
    return result


def idle_options(options: Sequence[Override], root: Node, trees: Sequence[Node]) -> list[Found]:
    """Options that reach no stage, because every stage says the key itself."""
    if not options:
        return []
    used = {node.mark for tree in trees for node in tree.walk()}
    used |= {n.mark for k, v in root.value.items() if k in EXPERIMENT_KEYS - {STAGES} for n in v.walk()}
    found: list[Found] = []
    for i, one in enumerate(options):
        replaced = any(o.path == one.path[: len(o.path)] for o in options[i + 1 :])
        if one.value.value is None or replaced or any(n.mark in used for n in one.value.walk()):
            continue
        mark = one.value.mark
        message = f"{one.key} at the top does nothing: every stage that reads it says its own"
        hint = f"set it in a stage: stages.NAME.{one.key}"
        found.append((mark, Problem(message, str(mark), None, hint)))
    return found
