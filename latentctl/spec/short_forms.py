"""Blocks that may be written as one value."""

from __future__ import annotations

from dataclasses import replace

from latentctl.spec.dataset import is_path
from latentctl.spec.yaml_marks import Node

SHORT_FORMS = {("model",): "path", ("dataset",): "name", ("validation",): "name", ("train", "keep"): "last"}
"""Path in a stage -> the key which the one value is. A dataset's text may also be its `path`."""


def long_form(node: Node, path: tuple[str, ...]) -> Node:
    """`dataset: gsm8k` as `{name: gsm8k}`; anything else as it is. `path` is relative to the stage."""
    key = SHORT_FORMS.get(path)
    wanted = int if key == "last" else str
    if key is None or not isinstance(node.value, wanted) or isinstance(node.value, bool):
        return node
    if key == "name" and is_path(str(node.value)):
        key = "path"
    return replace(node, value={key: replace(node, path=(*node.path, key))})
