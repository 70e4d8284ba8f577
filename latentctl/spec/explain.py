"""pydantic's findings as problems that name the file, the line, the value, and what is allowed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from latentctl.errors import Problem
from latentctl.spec import catalog
from latentctl.spec.base import Spec
from latentctl.spec.yaml_marks import Mark, Node

Found = tuple[Mark, Problem]

_TYPE_ERRORS = re.compile(r".*_type|int_from_float|is_instance_of")
_PATTERN_WORDS = "lower-case letters, digits, '.', '_' and '-', starting with a letter or digit"


def shown(value: Any) -> str:
    """A value as it is quoted in an error: short, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, dict):
        return f"a map ({', '.join(map(str, list(value)[:4]))}{', ...' if len(value) > 4 else ''})"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + "...'"


@dataclass(frozen=True)
class _Located:
    """One finding of pydantic, and the deepest node that it is about."""

    error: Any
    node: Node
    keys: tuple[str, ...]
    """The keys on the way to `node`."""
    rest: tuple[Any, ...]
    """What of the location is not in the tree: an absent key, or the branch of a union."""
    of_kind: str | None = None
    """The `kind` of the block that `node` stands in, where its keys depend on it."""


def _locate(error: Any, root: Node) -> _Located:
    node, seen, loc, of_kind = root, [], list(error["loc"]), None
    while loc:
        part, value = loc[0], node.value
        if len(loc) > 1 and (said := node.get("kind")) is not None and said.value == part:
            of_kind = str(loc.pop(0))
            continue
        if isinstance(value, dict) and str(part) in value:
            node = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            node = value[part]
        elif len(loc) > 1 and isinstance(value, dict | list) and _union_tag(part):
            loc.pop(0)
            continue
        else:
            break
        seen.append(str(loc.pop(0)))
    return _Located(error, node, tuple(seen), tuple(loc), of_kind)


def _union_tag(part: Any) -> bool:
    """Whether pydantic put this into a location to name the branch of a union."""
    return isinstance(part, str) and bool(
        re.match(r"[A-Z]|str$|int$|bool$|float$|list\[|dict\[|literal\[|function", part)
    )


def _choose(located: list[_Located]) -> list[_Located]:
    """Of the findings about one value, those that say something: deeper ones before 'wrong type' of another
    branch."""
    by_node: dict[int, list[_Located]] = {}
    for item in located:
        by_node.setdefault(id(item.node), []).append(item)
    chosen: list[_Located] = []
    for group in by_node.values():
        chosen += [i for i in group if not _of_a_branch(i)] or group[:1]
    deeper = {i.keys[:n] for i in chosen for n in range(len(i.keys))}
    return [i for i in chosen if not (_of_a_branch(i) and i.keys in deeper)]


def _of_a_branch(item: _Located) -> bool:
    """Whether this may only say that a value is not of one of the types that it might have."""
    return item.error["type"] == "literal_error" or bool(_TYPE_ERRORS.fullmatch(item.error["type"]))


def explain(
    error: ValidationError, root: Node, models: list[type[Spec]], *, leaves_only: bool = False
) -> list[Found]:
    """The problems of one validation, each placed at the key or value that is wrong."""
    located = [_locate(e, root) for e in error.errors(include_url=False)]
    located = [i for i in located if i.error["type"] != "missing" or i.rest]
    if leaves_only:
        located = [i for i in located if i.error["type"] != "missing" and not i.node.is_map]
    return [_problem(item, models) for item in _choose(located)]


def _key(node: Node, *more: str) -> str:
    return ".".join((*node.path, *more))


def _problem(item: _Located, models: list[type[Spec]]) -> Found:
    kind, node = item.error["type"], item.node
    if kind == "missing":
        return node.mark, Problem("missing", str(node.mark), _key(node, str(item.rest[-1])))
    if kind == "extra_forbidden":
        return node.key, _foreign(item, models)
    if kind.startswith("union_tag_"):
        return _kind(item)
    if kind == "value_error":
        return _contradiction(item)
    info = catalog.field_at(models, tuple(k for k in item.keys if not k.isdigit()))
    value = node.plain()
    in_list = bool(item.keys) and item.keys[-1].isdigit()
    message, hint = _wrong(kind, item, value, info, in_list), _hint(kind, value, info, in_list)
    return node.mark, Problem(message, str(node.mark), _key(node), hint)


def _foreign(item: _Located, models: list[type[Spec]]) -> Problem:
    """A key that nothing reads, or that a block of another kind would read."""
    where, key, kind = str(item.node.key), _key(item.node), item.of_kind
    block = catalog.field_at(models, item.keys[:-1]) if kind else None
    others = catalog.kinds(block.annotation, item.keys[-1]) if block is not None else []
    if not others:
        return Problem("unknown key", where, key)
    words = f"does nothing: the kind {kind} has no such setting"
    return Problem(words, where, key, f"it belongs to the kind {' or '.join(others)}")


def _kind(item: _Located) -> Found:
    """A block of several kinds whose `kind` is absent, or not one of them."""
    said = item.node.get("kind") if item.node.is_map else item.node
    if said is None:
        place = item.node.mark
        return place, Problem("missing", str(place), _key(item.node, "kind"), "say which kind of block it is")
    tags = re.findall(r"'([^']*)'", item.error["ctx"]["expected_tags"])
    near = catalog.nearest(str(said.value), tags)
    words = f"{shown(said.plain())}: expected one of {', '.join(tags)}"
    return said.mark, Problem(words, str(said.mark), _key(said), f"did you mean {near}?" if near else None)


def _wrong(kind: str, item: _Located, value: Any, info: Any, in_list: bool) -> str:
    context = item.error.get("ctx", {})
    if kind == "string_pattern_mismatch":
        longest = re.search(r"\{0,(\d+)\}", context.get("pattern", ""))
        allowed = (
            f"{_PATTERN_WORDS}, at most {int(longest[1]) + 1} signs"
            if longest
            else context.get("pattern", "")
        )
        return f"{shown(value)}: expected {allowed}"
    if kind in ("too_short", "too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        return (
            f"{shown(value)}: expected at {'least' if kind == 'too_short' else 'most'} {least or most} items"
        )
    if kind == "string_too_short":
        return "an empty text is not allowed"
    if info is not None:
        words = catalog.expected(info.annotation, info.metadata)
        return f"{shown(value)}: {'wrong in' if in_list else 'expected'} {words}"
    return f"{shown(value)}: {item.error['msg'][:1].lower()}{item.error['msg'][1:]}"


def _hint(kind: str, value: Any, info: Any, in_list: bool) -> str | None:
    words = catalog.expected(info.annotation, info.metadata) if info is not None else ""
    if (
        isinstance(value, str)
        and "true or false" in words
        and value.lower() in ("yes", "no", "on", "off", "y", "n")
    ):
        return f"write {'true' if value.lower() in ('yes', 'on', 'y') else 'false'}"
    if isinstance(value, float) and value.is_integer() and "whole number" in words:
        return f"write {int(value)}"
    if isinstance(value, str) and re.search("number", words):
        try:
            number = float(value)
        except ValueError:
            return None
        if re.fullmatch(r"[-+]?0\d+", value):
            return f"a leading zero makes it a text: write {int(number)}"
        return f"it is a text: write {value} without quotes"
    if isinstance(value, str) and (named := re.search(r"one of ([^()]*?)( or |$)", words)):
        near = catalog.nearest(value, named[1].split(", "))
        return f"did you mean {near}?" if near else None
    if words.startswith("a list of") and not in_list and not isinstance(value, list | dict):
        return f"write [{value}]"
    return None


def _contradiction(item: _Located) -> Found:
    """A finding in words of a model's own; points at the last written of the keys that the words name."""
    node = item.node
    cause = item.error.get("ctx", {}).get("error")
    words = str(cause) if cause is not None else item.error["msg"]
    named: list[Node] = []
    if node.is_map:
        named = [child for key, child in node.value.items() if re.search(rf"\b{re.escape(key)}\b", words)]
        named.sort(key=lambda child: child.mark)
    if not named:
        value = shown(node.plain())
        value = "" if node.is_map or words.startswith(f"{value}:") else f"{value}: "
        return node.mark, Problem(value + words, str(node.mark), _key(node))
    *others, last = named
    away = [f"{o.path[-1]} stands at {o.key}" for o in others if o.key.line != last.key.line]
    return last.key, Problem(words, str(last.key), _key(node), "; ".join(away) or None)
