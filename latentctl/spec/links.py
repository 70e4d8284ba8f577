"""Where each stage starts: `from` made explicit, and refused where it cannot be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from latentctl.errors import Problem
from latentctl.spec import catalog
from latentctl.spec.explain import Found, shown
from latentctl.spec.local_paths import ABSENT, look_up, looks_local
from latentctl.spec.methods import METHODS
from latentctl.spec.source import Source, parse_source
from latentctl.spec.stages import Draft
from latentctl.spec.yaml_marks import Node

RUN = re.compile(r"run:[A-Za-z0-9@._-]+(/[A-Za-z0-9._-]+)?(@[A-Za-z0-9]+)?")


@dataclass(frozen=True)
class _Link:
    """A stage that says where it starts."""

    drafts: Sequence[Draft]
    at: Draft
    node: Node
    source: Source

    def problem(self, message: str, hint: str | None = None) -> Found:
        where = self.node.mark
        key = ".".join(self.node.path)
        return where, Problem(f"{shown(self.node.value)}: {message}", str(where), key, hint)


def default_source(drafts: Sequence[Draft], index: int) -> str:
    """The nearest stage before whose method makes what this one starts from; `model` where there is none."""
    wanted = METHODS[drafts[index].method].starts_from
    before = (d.name for d in reversed(drafts[:index]) if METHODS[d.method].output == wanted)
    return next(before, "model")


def chains(drafts: Sequence[Draft]) -> dict[str, str]:
    """The name under which a chain is written -> its last stage that makes a checkpoint."""
    able = (d for d in drafts if METHODS[d.method].output in ("checkpoint", "judge"))
    return {d.written: d.name for d in able if d.name != d.written}


def link(drafts: Sequence[Draft]) -> tuple[list[str], list[Found]]:
    """The resolved `from` of every stage, and what is wrong with those that are said. The name of a chain
    means its last stage."""
    names, ends = [d.name for d in drafts], chains(drafts)
    resolved: list[str] = []
    problems: list[Found] = []
    for i, draft in enumerate(drafts):
        said = draft.node.get("from")
        if said is None:
            resolved.append(default_source(drafts, i))
        elif not isinstance(said.value, str) or not said.value:
            resolved.append("model")  # its type is judged with the stage's other keys
        else:
            text = str(said.value)
            source = parse_source(text, [*names, *ends])
            last = ends.get(source.stage or "") if source.kind == "stage" else None
            if source.stage and last and source.stage not in names:
                text = last + text[len(source.stage) :]
                source = replace(source, stage=last)
            text, found = _judge(_Link(drafts, draft, said, source), text)
            resolved.append(text)
            problems += found
    return resolved, problems


def _judge(one: _Link, said: str) -> tuple[str, list[Found]]:
    if one.source.kind == "stage":
        return said, _stage(one)
    if one.source.kind == "run":
        found = (
            [] if RUN.fullmatch(said) else [one.problem("expected run:ID, run:ID/STAGE or run:ID/STAGE@best")]
        )
        return said, found
    if one.source.kind == "path":
        return _directory(one, said)
    return said, []


def _stage(one: _Link) -> list[Found]:
    place = [d.name for d in one.drafts].index(str(one.source.stage))
    target = one.drafts[place]
    settings = METHODS[target.method]
    if target.written == one.at.written:
        return [one.problem("a stage cannot start from itself", "name an earlier stage, or model")]
    if place > one.at.index:
        message = f"the stage {target.name} comes later"
        loop = _loops(one, place)
        if loop:
            message += f", and the two form a cycle: {loop}"
        return [one.problem(message, "a stage starts from an earlier one: change the order, or name another")]
    wanted = METHODS[one.at.method].starts_from
    if settings.output != wanted:
        return [one.problem(*made_elsewhere(one.drafts[: one.at.index], target, wanted, "write from: model"))]
    return _which(one, target) if settings.trains else []


def made_elsewhere(before: Sequence[Draft], target: Draft, wanted: str, otherwise: str) -> tuple[str, str]:
    """Message and hint where a stage does not make what is read of it."""
    what = {"checkpoint": "checkpoint", "judge": "divergence model", "dataset": "data set"}[wanted]
    able = [d.name for d in before if METHODS[d.method].output == wanted]
    hint = f"stages before it that do: {catalog.listed(able)}" if able else otherwise
    return f"the stage {target.name} ({target.method}) makes no {what}", hint


def _loops(one: _Link, place: int) -> str | None:
    """The way back from a later stage to the one that starts from it, if there is one."""
    names = [d.name for d in one.drafts]
    way, seen = [one.at.name], {one.at.index}
    while place not in seen:
        seen.add(place)
        way.append(names[place])
        said = one.drafts[place].node.get("from")
        text = said.value if said and isinstance(said.value, str) else default_source(one.drafts, place)
        source = parse_source(text, names)
        if source.stage not in names or source.kind != "stage":
            return None
        place = names.index(source.stage)
    return " → ".join([*way, names[place]]) if place == one.at.index else None


def _which(one: _Link, target: Draft) -> list[Found]:
    """Whether the stage keeps the checkpoint that `@...` names."""
    which = one.source.which
    train = target.node.get("train")
    if "@" in str(one.node.value) and which is None:
        return [one.problem("nothing stands after the @", "write @best or a step's number")]
    if which is None:
        return []
    if which == "best":
        keep = train.get("keep") if train else None
        if keep is None or keep.get("best") is None:
            hint = f"set train.keep.best in {target.written}, e.g. keep: {{best: loss}}"
            return [one.problem(f"the stage {target.name} keeps no best checkpoint", hint)]
        return []
    if not which.isdigit():
        return [one.problem(f"expected @best or a step's number, not @{which[:20]}")]
    return _step(one, target, int(which), train)


def _step(one: _Link, target: Draft, step: int, train: Node | None) -> list[Found]:
    steps, every = (n.value if train and (n := train.get(k)) else None for k in ("steps", "save_every"))
    if isinstance(steps, int) and step > steps:
        return [one.problem(f"the stage {target.name} ends after step {steps}")]
    if step == steps or (isinstance(every, int) and every > 0 and step > 0 and step % every == 0):
        return []
    hint = f"set train.save_every in {target.written} to a divisor of {step}"
    return [one.problem(f"the stage {target.name} saves no checkpoint at step {step}", hint)]


def _directory(one: _Link, said: str) -> tuple[str, list[Found]]:
    path, reason = look_up(said)
    if reason is None and path.is_dir():
        return str(path), []
    if looks_local(said) or (reason is not None and reason != ABSENT):
        return said, [one.problem(reason or "this is a file, not a directory")]
    if any(d.broken and said.startswith(f"{d.written}.") for d in one.drafts):
        return said, []  # what is wrong with the chain is told already
    names = [d.name for d in one.drafts[: one.at.index]]
    near = catalog.nearest(said.partition("@")[0], [*names, "model"])
    if near:
        hint = f"did you mean {near}?"
    elif "/" in said:
        hint = f"for a model of the Hub, write model: {said} and from: model"
    else:
        hint = f"earlier stages: {catalog.listed(names) or 'none'}; or model, run:ID/STAGE, a directory"
    return said, [one.problem("there is no such stage, and no such directory", hint)]
