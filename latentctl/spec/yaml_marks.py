"""YAML read into a tree that remembers where each key and value stands.

Plain scalars follow YAML 1.2, as editors do, so that the traps of YAML 1.1 cannot bite: `1e-5` is a number,
`no`, `on` and `12:00:00` are texts, `010` is a text (octal or decimal? nobody knows), dates are texts. Only
the types of JSON exist. Bounded in size, depth and in what aliases expand to, so that no file can exhaust
memory or the stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from latentctl.errors import Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 40
MAX_NODES = 20_000
"""Values in one file, those behind aliases counted each time."""


@dataclass(frozen=True, order=True)
class Mark:
    """Where something was written. Sorts by source (files before options), then by position."""

    rank: int
    line: int
    """From 1; 0 where the source has no lines."""
    column: int
    source: str
    """A file's path, or the option (`--set train.lr`)."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Node:
    """A value, where it stands, and where the key before it stands. `value` is a scalar, a list or a dict of
    nodes."""

    value: Any
    mark: Mark
    key: Mark
    path: tuple[str, ...] = ()
    """The dotted path under which it was written."""
    height: int = field(default=1, compare=False)
    size: int = field(default=1, compare=False)

    @property
    def is_map(self) -> bool:
        return isinstance(self.value, dict)

    def get(self, key: str) -> Node | None:
        """The child of a map; None where there is none, or where this is no map."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def plain(self) -> Any:
        """The value without marks."""
        if isinstance(self.value, dict):
            return {k: v.plain() for k, v in self.value.items()}
        return [v.plain() for v in self.value] if isinstance(self.value, list) else self.value

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        if isinstance(self.value, dict | list):
            for child in self.value.values() if isinstance(self.value, dict) else self.value:
                yield from child.walk()

    def with_child(self, key: str, child: Node) -> Node:
        """A copy of this map in which `key` is `child`."""
        return replace(self, value={**self.value, key: child})

    def without(self, *keys: str) -> Node:
        """A copy of this map without those keys."""
        return replace(self, value={k: v for k, v in self.value.items() if k not in keys})


def from_plain(value: Any, mark: Mark, path: tuple[str, ...] = ()) -> Node:
    """A tree whose every value stands at `mark`."""
    if isinstance(value, dict):
        value = {str(k): from_plain(v, mark, (*path, str(k))) for k, v in value.items()}
    elif isinstance(value, list | tuple):
        value = [from_plain(v, mark, (*path, str(i))) for i, v in enumerate(value)]
    return Node(value, mark, mark, path)


def at_path(node: Node, path: tuple[str, ...]) -> Node:
    """The same tree, as if it had been written under `path`."""
    value = node.value
    if isinstance(value, dict):
        value = {k: at_path(v, (*path, k)) for k, v in value.items()}
    elif isinstance(value, list):
        value = [at_path(v, (*path, str(i))) for i, v in enumerate(value)]
    return replace(node, value=value, path=path)


class YamlProblems(Exception):
    """The text cannot be used at all; carries every problem found before giving up."""

    def __init__(self, problems: list[tuple[Mark, Problem]]) -> None:
        self.problems = problems
        super().__init__("; ".join(p.text() for _, p in problems))


_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_RADIX = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".inf": float("inf"), "-.inf": float("-inf"), "+.inf": float("inf"), ".nan": float("nan"),
}  # fmt: skip
_TAGS = {f"tag:yaml.org,2002:{t}": t for t in ("str", "int", "float", "bool", "null", "map", "seq")}


def plain_scalar(text: str) -> Any:
    """What an unquoted scalar means."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if _INT.fullmatch(text) and len(text) < 400:
        return int(text.replace("_", ""))
    if _RADIX.fullmatch(text) and len(text) < 400:
        return int(text, 0)
    if _FLOAT.fullmatch(text) and not re.match(r"[-+]?0[0-9]", text):
        return float(text)
    return text


@dataclass
class _Open:
    """A container that is being read."""

    is_map: bool
    mark: Mark
    key_mark: Mark
    path: tuple[str, ...]
    anchor: str | None
    items: dict[str, Node] | list[Node]
    key: str | None = None
    pending: Mark | None = None
    merges: list[Node] = field(default_factory=list)
    skip: bool = False
    """The key in hand is a duplicate: its value is read and dropped."""
    merging: bool = False
    """The key in hand is `<<`."""


class _Reader:
    """Builds the tree from parser events with its own stack: no recursion, so no depth can hurt."""

    def __init__(self, text: str, source: str, rank: int, lines: bool) -> None:
        self.text, self.source, self.rank, self.lines = text, source, rank, lines
        self.problems: list[tuple[Mark, Problem]] = []
        self.stack: list[_Open] = []
        self.anchors: dict[str, Node] = {}
        self.open_anchors: set[str] = set()
        self.root: Node | None = None
        self.nodes = 0

    def mark(self, mark: Any) -> Mark:
        if not self.lines:
            return Mark(self.rank, 0, 0, self.source)
        return Mark(self.rank, mark.line + 1, mark.column + 1, self.source)

    def problem(self, mark: Mark, message: str, hint: str | None = None) -> None:
        path = self._path() if self.stack else ()
        key = ".".join(path if len(path) <= 8 else (*path[:8], "..."))
        self.problems.append((mark, Problem(message, str(mark), key or None, hint)))

    def give_up(self, mark: Mark, message: str, hint: str | None = None) -> YamlProblems:
        self.problem(mark, message, hint)
        return YamlProblems(self.problems)

    def read(self) -> Node | None:
        try:
            loader = yaml.SafeLoader(self.text)
        except yaml.reader.ReaderError as error:
            raise self._bad_character(error.position) from None
        try:
            while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
                self._event(event)
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error) from None
        except yaml.reader.ReaderError as error:
            raise self._bad_character(error.position) from None
        finally:
            loader.dispose()
        if self.problems:
            raise YamlProblems(self.problems)
        return self.root

    def _bad_character(self, position: int) -> YamlProblems:
        before = self.text[:position]
        line, column = before.count("\n"), position - (before.rfind("\n") + 1)
        mark = Mark(self.rank, line + 1, column + 1, self.source)
        code = ord(self.text[position]) if position < len(self.text) else 0
        return self.give_up(mark, f"the control character U+{code:04X} may not stand in YAML")

    def _syntax(self, error: yaml.MarkedYAMLError) -> YamlProblems:
        raw = error.problem_mark or error.context_mark
        mark = self.mark(raw) if raw else Mark(self.rank, 1, 1, self.source)
        line = self.text.splitlines()[raw.line] if raw and raw.line < len(self.text.splitlines()) else ""
        words = (error.problem or "a syntax error").replace("\x00", "the end of the text")
        if error.context and error.context_mark and self.lines:
            words += f" ({error.context}, from line {error.context_mark.line + 1})"
        hint = None
        if "\t" in line[: raw.column + 1 if raw else None]:
            words, hint = "a tab where YAML wants spaces", "indent with spaces"
        elif "mapping values are not allowed" in words:
            hint = "check the indentation; a text that contains ': ' needs quotes"
        elif "expected <block end>" in words:
            words, hint = (
                "the indentation of this line fits no line above",
                f"the line reads: {line.strip()[:60]}",
            )
        elif line.strip():
            hint = f"the line reads: {line.strip()[:60]}"
        return self.give_up(mark, f"not YAML: {words}", hint)

    def _path(self) -> tuple[str, ...]:
        top = self.stack[-1]
        return (*top.path, (top.key or "") if top.is_map else str(len(top.items)))

    def _event(self, event: Any) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            if self.root is not None:
                raise self.give_up(
                    self.mark(event.start_mark), "a second document starts here", "one file holds one"
                )
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._start(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()

    def _count(self, mark: Mark, size: int, height: int) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            what = "aliases expand to" if size > 1 else "the file holds"
            raise self.give_up(mark, f"{what} more than {MAX_NODES:,} values, which is the limit")
        if len(self.stack) + height > MAX_DEPTH:
            raise self.give_up(mark, f"nested deeper than {MAX_DEPTH} levels, which is the limit")

    def _tag(self, event: Any, mark: Mark, allowed: tuple[str, ...]) -> str | None:
        """The short name of an explicit standard tag; a problem for any other."""
        if event.tag is None or event.tag == "!":
            return "str" if event.tag == "!" else None
        name = _TAGS.get(event.tag)
        if name not in allowed:
            shown = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.problem(mark, f"the tag {shown} is not supported", "drop it: only plain values are read")
            return "str" if "str" in allowed else None
        return name

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        mark = self.mark(event.start_mark)
        self._count(mark, 1, 0)
        tag = self._tag(event, mark, ("str", "int", "float", "bool", "null"))
        top = self.stack[-1] if self.stack else None
        if top and top.is_map and top.key is None:
            self._key(top, event.value, mark, plain=event.style is None)
            return
        text = event.value
        value = plain_scalar(text) if (event.style is None and tag != "str") else text
        if tag in ("int", "float", "bool", "null"):
            value = plain_scalar(text)
            kinds = {"int": int, "float": int | float, "bool": bool, "null": type(None)}
            if not isinstance(value, kinds[tag]) or (tag != "bool" and isinstance(value, bool)):
                self.problem(mark, f"{text!r} is not of the type that the tag !!{tag} says")
            elif tag == "float":
                value = float(value)
        self._put(Node(value, mark, self._key_mark(mark), self._path() if self.stack else ()), event.anchor)

    def _key(self, top: _Open, text: str, mark: Mark, *, plain: bool) -> None:
        top.key, top.pending, top.skip, top.merging = text, mark, False, plain and text == "<<"
        if top.merging:
            return
        assert isinstance(top.items, dict)
        if text in top.items:
            first = top.items[text].key
            self.problem(mark, f"{text!r} is written twice", f"the first one stands at {first}")
            top.skip = True

    def _key_mark(self, mark: Mark) -> Mark:
        top = self.stack[-1] if self.stack else None
        return (top.pending if top and top.is_map else None) or mark

    def _alias(self, event: yaml.AliasEvent) -> None:
        mark = self.mark(event.start_mark)
        top = self.stack[-1] if self.stack else None
        if event.anchor in self.open_anchors:
            raise self.give_up(mark, f"the alias *{event.anchor} stands inside of what it names")
        node = self.anchors.get(event.anchor)
        if node is None:
            raise self.give_up(
                mark, f"there is no anchor &{event.anchor} above for the alias *{event.anchor}"
            )
        if top and top.is_map and top.key is None:
            raise self.give_up(mark, f"the alias *{event.anchor} cannot be a key")
        self._count(mark, node.size, node.height)
        path = self._path() if self.stack else ()
        self._put(replace(at_path(node, path), key=self._key_mark(mark)), None)

    def _start(self, event: Any) -> None:
        mark = self.mark(event.start_mark)
        is_map = isinstance(event, yaml.MappingStartEvent)
        self._count(mark, 1, 1)
        self._tag(event, mark, ("map",) if is_map else ("seq",))
        top = self.stack[-1] if self.stack else None
        if top and top.is_map and top.key is None:
            raise self.give_up(
                mark,
                "a key must be a text, not a map or a list",
                "a text that starts with { or [ needs quotes",
            )
        if event.anchor:
            self.open_anchors.add(event.anchor)
        path = self._path() if self.stack else ()
        self.stack.append(_Open(is_map, mark, self._key_mark(mark), path, event.anchor, {} if is_map else []))

    def _end(self) -> None:
        done = self.stack.pop()
        items: Any = done.items
        for merged in done.merges:
            for key, child in merged.value.items():
                items.setdefault(key, at_path(child, (*done.path, key)))
        children = list(items.values() if done.is_map else items)
        height = 1 + max((c.height for c in children), default=0)
        size = 1 + sum(c.size for c in children)
        if done.anchor:
            self.open_anchors.discard(done.anchor)
        self._put(Node(items, done.mark, done.key_mark, done.path, height, size), done.anchor)

    def _put(self, node: Node, anchor: str | None) -> None:
        if anchor:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        if isinstance(top.items, list):
            top.items.append(node)
            return
        key, top.key = top.key, None
        assert key is not None
        if top.merging:
            self._merge(top, node)
        elif not top.skip:
            top.items[key] = node

    def _merge(self, top: _Open, node: Node) -> None:
        maps = node.value if isinstance(node.value, list) else [node]
        for one in maps:
            if one.is_map:
                top.merges.append(one)
            else:
                self.problem(one.mark, "the merge key << wants a map, or a list of maps")


def parse(text: str, source: str, *, rank: int = 0, lines: bool = True) -> Node | None:
    """The tree of a text, None if it holds no value. `lines=False`: for options, whose marks have no lines.

    Raises YamlProblems with everything found.
    """
    return _Reader(text, source, rank, lines).read()
