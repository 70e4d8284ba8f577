"""Whatever a file holds, there is a recipe or a clear error, never another exception."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentctl import shipped
from latentctl.errors import Problem, UserError
from latentctl.spec import files
from latentctl.spec.load import load_mapping, load_profile, load_recipe
from latentctl.spec.yaml_marks import parse

QUIET = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
SEEDS = [p.read_bytes() for p in sorted(shipped.folder("recipes").glob("*.yaml"))]
TOKENS = [
    b"null",
    b"[]",
    b"{}",
    b"*a",
    b"&a",
    b"<<",
    b"-1",
    b"1e999",
    b"'",
    b"!!str",
    b"\t",
    b"no",
    b"\xff",
    b"- ",
    b": ",
    b"{a: [",
]
WORDS = st.sampled_from(
    [
        "model",
        "dataset",
        "method",
        "stages",
        "train",
        "lr",
        "sft",
        "eval",
        "seeds",
        "sweep",
        "grid",
        "from",
        "name",
        "validation",
        "prompt",
        "markers",
        "think",
        "keep",
        "best",
        "loss",
        "plugins",
        "wandb",
        "resources",
        "time",
        "init",
        "tokenizer",
        "path",
        "coconut",
        "epochs",
        "eval_each",
        "6 3^4",
        "latent",
        "input",
        "kind",
        "soft",
        "hidden",
        "stop",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-3, 10**6) | st.floats() | WORDS | st.text(max_size=8)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)


FULL = """
model: {init: {arch: gpt2, layers: 1}, tokenizer: {kind: word}}
dataset: {name: shell-game, options: {cups: 3}}
prompt: {form: coconut, markers: {start: a, end: b}}
train: {lr: 1e-3, betas: [0.9, 0.95], lora: {r: 4}, keep: {best: loss}, early_stop: {}, eval_every: 5}
validation: math
sampling: {temperature: 1.0, samples: 4, stop: [x]}
resources: {time: 12h, mem: 4G}
seeds: [1, 2]
sweep: {grid: {train.lr: [1e-3, 1e-4], stages.b.sampling.top_k: [1, 2]}}
wandb: {tags: [a]}
stages:
- {name: a, method: sft, sft: {target: answer}}
- {name: b, method: eval, from: a@best, eval: {max_batch: 3}, dataset: {limit: 3}}
- eval
"""
TREE_SEEDS = [
    node.plain() for text in [FULL.encode(), *SEEDS] if (node := parse(text.decode(), "r.yaml")) is not None
]


def test_the_full_recipe_is_good() -> None:
    assert len(load_mapping(TREE_SEEDS[0]).points) == 8


def told(read: Callable[[], object]) -> list[Problem] | None:
    """What is wrong, None if nothing is; any other exception fails the test."""
    try:
        read()
    except UserError as error:
        return error.problems
    return None


def judge(read: Callable[[], object]) -> None:
    problems = told(read)
    assert problems is None or (problems and all(p.message for p in problems))


def answers(path: Path, *sets: str) -> None:
    judge(lambda: load_recipe(path, list(sets)))


@QUIET
@given(st.binary(max_size=400))
def test_random_bytes(here: Path, data: bytes) -> None:
    (here / "r.yaml").write_bytes(data)
    answers(here / "r.yaml")


@QUIET
@given(st.text(max_size=300))
def test_random_text(here: Path, text: str) -> None:
    (here / "r.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    answers(here / "r.yaml")


@QUIET
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 6), st.sampled_from(TOKENS)), max_size=4),
)
def test_shipped_recipes_with_pieces_replaced(
    here: Path, seed: bytes, cuts: list[tuple[int, int, bytes]]
) -> None:
    data = seed
    for at, length, token in cuts:
        at %= len(data) + 1
        data = data[:at] + token + data[at + length :]
    (here / "r.yaml").write_bytes(data)
    answers(here / "r.yaml")


@QUIET
@given(st.dictionaries(WORDS, TREES, max_size=6))
def test_random_recipes_of_known_words(data: dict[str, object]) -> None:
    judge(lambda: load_mapping(data))


def swapped(data: Any, draw: Callable[[int], int], value: object) -> Any:
    """A copy of the tree in which one node, chosen on the way down, is `value`."""
    if not isinstance(data, dict | list) or not data or draw(4) == 0:
        return value
    keys = list(data) if isinstance(data, dict) else list(range(len(data)))
    chosen = keys[draw(len(keys))]
    if isinstance(data, dict):
        return {k: swapped(v, draw, value) if k == chosen else v for k, v in data.items()}
    return [swapped(v, draw, value) if i == chosen else v for i, v in enumerate(data)]


@QUIET
@given(st.data(), st.sampled_from(TREE_SEEDS), st.lists(TREES, min_size=1, max_size=3))
def test_good_recipes_with_parts_replaced(data: st.DataObject, tree: Any, values: list[object]) -> None:
    for value in values:
        tree = swapped(tree, lambda n: data.draw(st.integers(0, n - 1)), value)
    if isinstance(tree, dict):
        judge(lambda: load_mapping(tree))


@QUIET
@given(
    st.lists(WORDS | st.integers(0, 5).map(str) | st.text(max_size=4), min_size=1, max_size=4),
    st.text(max_size=12),
)
def test_random_options(here: Path, path: list[str], value: str) -> None:
    (here / "r.yaml").write_bytes(SEEDS[-1])
    answers(here / "r.yaml", f"{'.'.join(path)}={value}")


@QUIET
@given(TREES)
def test_random_profiles(here: Path, data: object) -> None:
    import yaml

    (here / "p.yaml").write_text(yaml.safe_dump({"executor": "slurm", "env": data}, allow_unicode=True))
    judge(lambda: load_profile(here / "p.yaml"))


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_a_recipe_cut_short_at_any_byte(here: Path, seed: int) -> None:
    for end in range(0, len(SEEDS[seed]), 7):
        (here / "r.yaml").write_bytes(SEEDS[seed][:end])
        answers(here / "r.yaml")


def test_texts_are_read_once_whatever_their_size() -> None:
    with pytest.raises(UserError):
        files.tree(b"[" * 200_000, "r.yaml", "recipe")
