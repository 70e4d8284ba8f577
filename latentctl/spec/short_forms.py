"""Blocks that may be written as one value, and blocks of which there are several kinds."""

from __future__ import annotations

from dataclasses import replace

from latentctl.spec.dataset import is_path
from latentctl.spec.latent import NAMED_MARKERS
from latentctl.spec.yaml_marks import Node

SHORT_FORMS = {
    ("model",): "path",
    ("dataset",): "name",
    ("validation",): "name",
    ("train", "keep"): "last",
    ("latent", "input"): "kind",
    ("latent", "stop"): "fixed",
}
"""Path in a stage -> the key which the one value is. A dataset's text may also be its `path`."""
KINDS = (("latent", "input"), ("latent", "noise"))
"""Paths of blocks whose keys depend on their `kind`."""
NULL_SAYS = (
    ("latent", "input", "max_topk"),
    ("coconut", "marker_init"),
    ("eval", "tree", "max_gap"),
    ("grpo", "tree", "max_gap"),
    ("divergence-data", "tree", "max_gap"),
    ("hang_after",),  # of a cluster profile
)
"""Paths at which null is a value like another. Anywhere else it takes away what would be inherited."""
_LATER = ("coconut", "eval_each")
"""What stands below is merged over another stage later on: its nulls have to last until then."""
_NUMBERS = ("last", "fixed")


def long_form(node: Node, path: tuple[str, ...]) -> Node:
    """`dataset: gsm8k` as `{name: gsm8k}`; anything else as it is. `path` is relative to the stage."""
    if path == ("latent", "markers") and isinstance(node.value, str) and node.value in NAMED_MARKERS:
        texts = NAMED_MARKERS[node.value].model_dump()
        return replace(
            node, value={k: replace(node, value=v, path=(*node.path, k)) for k, v in texts.items()}
        )
    key = SHORT_FORMS.get(path)
    wanted = int if key in _NUMBERS else str
    if key is None or not isinstance(node.value, wanted) or isinstance(node.value, bool):
        return node
    if key == "name" and is_path(str(node.value)):
        key = "path"
    return replace(node, value={key: replace(node, path=(*node.path, key))})


def other_kind(base: Node, over: Node, path: tuple[str, ...]) -> bool:
    """Whether two maps at `path` are of different kinds: the settings of one mean nothing to the other."""
    if path not in KINDS:
        return False
    kinds = [kind.plain() if (kind := node.get("kind")) else None for node in (base, over)]
    return None not in kinds and kinds[0] != kinds[1]


def null_says(path: tuple[str, ...]) -> bool:
    """Whether a null at `path` is kept as a value."""
    return path in NULL_SAYS or (path[: len(_LATER)] == _LATER and len(path) > len(_LATER))
