"""Paths that a recipe names: found, and made absolute, so that jobs need not know where the person stood."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from latentctl.errors import Problem
from latentctl.spec.dataset import DATA_SUFFIXES
from latentctl.spec.explain import Found, shown
from latentctl.spec.short_forms import long_form
from latentctl.spec.yaml_marks import Node

_PLACES = (("model", "path"), ("model", "tokenizer"), ("dataset", "path"), ("validation", "path"))

ABSENT = "no such file or directory"


def looks_local(text: str, *, data: bool = False) -> bool:
    """Whether a text can only mean a path on this machine; `data`: a data file's ending says so too."""
    return (
        text.startswith(("./", "../", "/", "~"))
        or text in (".", "..")
        or (data and text.lower().endswith(DATA_SUFFIXES))
    )


def look_up(text: str) -> tuple[Path, str | None]:
    """The absolute path that a text means, and why it cannot be used, if it cannot."""
    if "\0" in text:
        return Path(), "a path may not hold a null byte"
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError as error:
        return Path(), str(error)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path, ABSENT
    except OSError as error:
        return path, error.strerror or str(error)
    return path, None


def _place(node: Node, *, data: bool) -> tuple[Node, Found | None]:
    text = node.value
    if not isinstance(text, str) or not text:
        return node, None
    local = looks_local(text, data=data)
    path, reason = look_up(text)
    if reason is None and (local or data or path.is_dir()):
        return replace(node, value=str(path)), None
    if reason is not None and (local or reason != ABSENT):
        relative = reason == ABSENT and not text.startswith(("/", "~"))
        hint = f"paths are relative to where latentctl is called: {Path.cwd()}" if relative else None
        problem = Problem(f"{shown(text)}: {reason}", str(node.mark), ".".join(node.path), hint)
        return node, (node.mark, problem)
    return node, None


def settle(stage: Node) -> tuple[Node, list[Found]]:
    """A stage's tree with existing local paths made absolute, and a problem for each that does not exist."""
    problems: list[Found] = []
    for block_name, key in _PLACES:
        block = stage.get(block_name)
        if block is None:
            continue
        block = long_form(block, (block_name,))
        child = block.get(key)
        if child is None:
            continue
        placed, problem = _place(child, data=block_name != "model")
        if problem:
            problems.append(problem)
        stage = stage.with_child(block_name, block.with_child(key, placed))
    return stage, problems
