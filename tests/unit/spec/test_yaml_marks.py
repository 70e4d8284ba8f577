"""The YAML reader: what scalars mean, where things stand, and what is refused."""

from __future__ import annotations

import math

import pytest

from latentctl.spec.yaml_marks import MAX_DEPTH, MAX_NODES, Node, YamlProblems, parse


def tree(text: str) -> Node:
    node = parse(text, "r.yaml")
    assert node is not None
    return node


def refused(text: str) -> list[str]:
    with pytest.raises(YamlProblems) as caught:
        parse(text, "r.yaml")
    return [problem.text() for _, problem in caught.value.problems]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("12", 12),
        ("-3", -3),
        ("+4", 4),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("12:00:00", "12:00:00"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("007.5", "007.5"),
        ("0b11", "0b11"),
        ("2024-01-31", "2024-01-31"),
        ("1e", "1e"),
        ("v1.0", "v1.0"),
        ("=", "="),
        ("'1e-5'", "1e-5"),
        ('"true"', "true"),
        ("'null'", "null"),
        ("!!str 12", "12"),
        ("!!int 12", 12),
        ("!!float 12", 12.0),
        ("! 12", "12"),
    ],
)
def test_scalars_mean_what_a_researcher_reads(written: str, meant: object) -> None:
    value = tree(f"key: {written}\n").plain()["key"]
    assert value == meant
    assert type(value) is type(meant)


def test_infinities_and_nan_are_numbers_for_the_models_to_refuse() -> None:
    value = tree("[.inf, -.inf, .nan]").plain()
    assert value[0] == math.inf
    assert value[1] == -math.inf
    assert math.isnan(value[2])


def test_block_texts_are_texts() -> None:
    assert tree("a: |\n  12\n").plain() == {"a": "12\n"}
    assert tree("a: >\n  1e-5\n").plain() == {"a": "1e-5\n"}


def test_every_key_and_value_knows_its_place() -> None:
    root = tree("a: 1\nb:\n  - x\n  - {c: 2}\n")
    assert str(root.value["a"].mark) == "r.yaml:1:4"
    assert str(root.value["a"].key) == "r.yaml:1:1"
    inner = root.value["b"].value[1].value["c"]
    assert (str(inner.key), str(inner.mark), inner.path) == ("r.yaml:4:6", "r.yaml:4:9", ("b", "1", "c"))


def test_keys_are_texts_whatever_they_look_like() -> None:
    assert tree("{1: a, true: b, null: c, no: d}").plain() == {"1": "a", "true": "b", "null": "c", "no": "d"}


def test_duplicate_keys_name_both_places() -> None:
    first, second = refused("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert first == "r.yaml:2:11: b.c: 'c' is written twice\nhint: the first one stands at r.yaml:2:5"
    assert second == "r.yaml:3:1: a: 'a' is written twice\nhint: the first one stands at r.yaml:1:1"


def test_aliases_and_merge_keys_work() -> None:
    root = tree("base: &b {lr: 1, wd: 2}\nx: {<<: *b, lr: 3}\ny: *b\nz: {<<: [*b, {eps: 9}]}\n").plain()
    assert root["x"] == {"lr": 3, "wd": 2}
    assert root["y"] == {"lr": 1, "wd": 2}
    assert root["z"] == {"lr": 1, "wd": 2, "eps": 9}


def test_what_an_alias_stands_for_has_the_path_where_it_is_used() -> None:
    root = tree("a: &a {x: 1}\nb: [*a]\nc: {<<: *a}\n")
    again = root.value["b"].value[0]
    assert (again.path, again.value["x"].path, str(again.value["x"].mark)) == (
        ("b", "0"),
        ("b", "0", "x"),
        "r.yaml:1:11",
    )
    assert root.value["c"].value["x"].path == ("c", "x")


def test_a_quoted_merge_sign_is_a_key() -> None:
    assert tree('"<<": 1').plain() == {"<<": 1}


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    (line,) = refused(text)
    assert f"aliases expand to more than {MAX_NODES:,} values, which is the limit" in line


def test_a_long_file_without_aliases_is_told_so() -> None:
    (line,) = refused("[" + "1," * (MAX_NODES + 1) + "]")
    assert f"the file holds more than {MAX_NODES:,} values" in line


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 20_000 + "x", "a: &a [*a]"])
def test_no_depth_exhausts_the_stack(text: str) -> None:
    assert refused(text)


def test_depth_counts_what_aliases_hold() -> None:
    deep = "[" * (MAX_DEPTH - 5) + "]" * (MAX_DEPTH - 5)
    assert "nested deeper" in refused(f"a: &a {deep}\nb: [[[[[[*a]]]]]]")[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a\n  b: *a\n", "r.yaml:2:6: a.b: the alias *a stands inside of what it names"),
        ("a: *nope\n", "there is no anchor &nope"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2:1: a second document starts here"),
        (
            "a: !!python/object/apply:os.system [echo]\n",
            "the tag !!python/object/apply:os.system is not supported",
        ),
        ("a: !env HOME\n", "r.yaml:1:4: a: the tag !env is not supported"),
        ("a: !!timestamp 2024-01-01\n", "the tag !!timestamp is not supported"),
        ("a: !!int twelve\n", "'twelve' is not of the type that the tag !!int says"),
        ("a: !!binary aGk=\n", "the tag !!binary is not supported"),
        ("? [a, b]\n: 1\n", "a key must be a text"),
        ("a: {<<: 3}\n", "the merge key << wants a map"),
        ("a:\n\tb: 1\n", "a tab where YAML wants spaces\nhint: indent with spaces"),
        (
            "a: b: c\n",
            "r.yaml:1:5: not YAML: mapping values are not allowed here\nhint: check the indentation",
        ),
        ("a:\n  b: 1\n c: 2\n", "r.yaml:3:2: not YAML: the indentation of this line fits no line above"),
        ("a: [1, 2\nb: 3\n", "not YAML"),
        ("a: 'open\n", "not YAML"),
        ("a: \x00", "the control character U+0000 may not stand in YAML"),
        ("a: 1\nb: \x1b[0m", "r.yaml:2:4: the control character U+001B"),
        ("%YAML 3.0\n---\na: 1", "not YAML"),
        ("@a: 1", "not YAML"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_in_words(text: str, words: str) -> None:
    assert words in "\n".join(refused(text))


def test_duplicates_are_told_beside_a_syntax_error() -> None:
    lines = refused("a: 1\na: 2\nb: [\n")
    assert "written twice" in lines[0]
    assert "not YAML" in lines[1]
