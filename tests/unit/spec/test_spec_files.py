"""Files that cannot be a recipe at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from spec_recipes import HEAD, Recipes

from latentctl.errors import Exit, UserError
from latentctl.spec.load import load_recipe
from latentctl.spec.yaml_marks import MAX_BYTES


def error(path: Path | str) -> UserError:
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    return caught.value


def test_a_missing_file(recipes: Recipes) -> None:
    found = error("nope.yaml")
    assert str(found) == "nope.yaml: no such file\nhint: shipped recipes: latentctl recipes list"
    assert found.code == Exit.NOT_FOUND


def test_a_missing_file_beside_one_of_a_similar_name(recipes: Recipes) -> None:
    recipes.write(HEAD, "countdown.yaml")
    assert "hint: did you mean countdown.yaml?" in str(error("count-down.yaml"))


def test_a_directory(recipes: Recipes, here: Path) -> None:
    (here / "d").mkdir()
    recipes.write(HEAD, "d/a.yaml")
    assert str(error("d")) == "d: this is a directory, not a recipe\nhint: recipes in it: a.yaml"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "r.yaml: the file is empty"),
        (b"\n  \n", "the file is empty"),
        (b"# only words\n", "the file is empty"),
        (b"---\n...\n", "the file is empty"),
        (b"null\n", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"hello\n", "r.yaml:1:1: a recipe is a map of keys and values; this file holds one value"),
        (b"12\n", "this file holds one value"),
        (b"- method: sft\n", "this file holds a list"),
        (
            b"model: a/b\nname: caf\xe9\n",
            "r.yaml:2:10: the byte 0xE9 (offset 20) is not UTF-8\nhint: save the file as UTF-8",
        ),
        (b"\x89PNG\r\n\x1a\n\0\0", "r.yaml:1:1: the byte 0x89 (offset 0) is not UTF-8"),
        ("model: a".encode("utf-16"), "r.yaml:1:1: the file is UTF-16\nhint: save it as UTF-8"),
        (b"a" * (MAX_BYTES + 1), "larger than 256 KiB, which is the limit of a recipe"),
        (b'{"model": "a/b", "dataset": "gsm8k"', "r.yaml:1:36: not YAML"),
    ],
)
def test_bytes_that_are_no_recipe(recipes: Recipes, data: bytes, expected: str) -> None:
    (line,) = recipes.lines(data)
    assert expected in line


def test_thousands_of_problems_are_counted_not_listed(recipes: Recipes) -> None:
    lines = recipes.lines(b"a: b\n" * 1000)
    assert len(lines) == 201
    assert lines[-1] == "and 799 more problems"


def test_a_byte_order_mark_and_windows_lines_do_no_harm(recipes: Recipes) -> None:
    text = b"\xef\xbb\xbf" + HEAD.encode().replace(b"\n", b"\r\n") + b"method: sft\r\ntrain: {lr: 1e-3}\r\n"
    point = recipes.point(text)
    assert point.experiment.stages[0].train.lr == 1e-3
    assert point.provenance["stages.sft.train.lr"] == "r.yaml:4:13"


def test_json_is_yaml_too(recipes: Recipes) -> None:
    assert recipes.point(b'{"model": "a/b", "dataset": "gsm8k", "method": "sft"}').experiment.name == "r"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(recipes: Recipes, here: Path) -> None:
    recipes.write(HEAD).chmod(0)
    assert "cannot be read: Permission denied" in str(error("r.yaml"))


def test_names_that_no_file_can_have() -> None:
    assert "cannot be read" in str(error("x" * 5000))
    assert "cannot be read" in str(error("a\0b"))


def test_an_endless_file_is_not_read_to_its_end() -> None:
    assert "larger than" in str(error("/dev/zero"))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("My Run.yaml", "my-run"),
        ("ünï.yaml", "n"),
        ("__.yaml", "experiment"),
        ("a.b.yaml", "a.b"),
        ("x" * 90 + ".yaml", "x" * 60),
    ],
)
def test_an_unnamed_experiment_is_called_like_its_file(recipes: Recipes, file: str, name: str) -> None:
    recipes.write(HEAD + "method: sft\n", file)
    assert load_recipe(file).points[0].experiment.name == name


def test_the_bytes_are_kept_as_written(recipes: Recipes) -> None:
    text = HEAD + "method: sft   # yes\n"
    assert recipes.load(text).recipe_bytes == text.encode()
