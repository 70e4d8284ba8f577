"""Questions of an evaluation that stand in the training data are found; others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_reading import read

from jobs.data import Example
from jobs.data.leakage import check, compare, find_leaks, run, words
from latentctl.spec.experiment import Experiment

LONG = (
    "A farmer has twelve red hens and four brown hens, and every hen lays two eggs a day. "
    "How many eggs in {} days?"
)


def example(id: str, question: str) -> Example:
    return Example(id, question, "1")


def test_exact_copies_whatever_case_spaces_and_punctuation() -> None:
    train = [example("t", "How  many EGGS,\nin total?")]
    (leak,) = find_leaks(train, [example("e", "how many eggs in total")])
    assert (leak.kind, leak.eval_id, leak.train_id, leak.share) == ("exact", "e", "t", 1.0)


def test_other_numbers_and_other_operations_are_other_questions() -> None:
    train = [example("t", "What is 3 + 4?"), example("u", "What is 12?")]
    assert not find_leaks(train, [example("e", "What is 3 - 4?"), example("f", "What is 13?")])


def test_near_copies() -> None:
    train = [
        example("t", LONG.format(30)),
        example("u", "Something else entirely, of about the same length, is asked here?"),
    ]
    (leak,) = find_leaks(train, [example("e", LONG.format(31))])
    assert (leak.kind, leak.train_id) == ("near", "t")
    assert 0.8 <= leak.share < 1


def test_pieces_of_many_questions_are_no_copy() -> None:
    """Every part stands somewhere in the training data, but no single question holds 80 % of it."""
    text = " ".join(f"word{i}" for i in range(40))
    parts = text.split()
    train = [example(f"t{i}", " ".join(parts[i : i + 14])) for i in range(0, 40, 4)]
    assert not find_leaks(train, [example("e", text)])


def test_boilerplate_counts_for_neither_side() -> None:
    """A frame that all questions share does not make copies of them."""
    frame = (
        "In this puzzle you are given some numbers and have to say which of them is the largest one: {} {}"
    )
    train = [example(f"t{i}", frame.format(i, i + 1)) for i in range(500)]
    assert not find_leaks(train, [example("e", frame.format(900, 901))])
    (leak,) = find_leaks(train, [example("e", frame.format(7, 8))])
    assert leak.kind == "exact"


def test_compatibility_forms_are_one() -> None:
    assert words("x² ＝ ４ ﬁne") == words("x2 = 4 fine")


def test_counts_and_first_examples() -> None:
    train = [example(f"t{i}", f"question number {i}") for i in range(20)]
    found = compare(
        train, [example(f"e{i}", f"Question number {i}!") for i in range(10, 30)], names=("a", "b")
    )
    assert (found.exact, found.near, found.train_rows, found.eval_rows) == (10, 0, 20, 20)
    assert len(found.examples) == 5
    assert found.found


def experiment(
    *, train: dict[str, Any], held: dict[str, Any], validation: dict[str, Any] | None = None
) -> Experiment:
    model = {"init": {}}
    sft = {
        "name": "sft",
        "method": "sft",
        "from": "model",
        "model": model,
        "dataset": train,
        "validation": validation,
    }
    evaluation = {"name": "eval", "method": "eval", "from": "sft", "model": model, "dataset": held}
    return Experiment.model_validate({"name": "x", "stages": [sft, evaluation]})


def test_the_validation_part_of_gsm8k_aug_is_inside_gsm8k_train(real_data: Path) -> None:
    held = {"name": "gsm8k-aug", "split": "valid"}
    (pair,) = check(experiment(train={"name": "gsm8k"}, held=held), data_dir=str(real_data))
    assert (pair.exact, pair.train_rows, pair.eval_rows) == (500, 7473, 500)
    clean = check(
        experiment(train={"name": "gsm8k-aug"}, held={"name": "gsm8k", "split": "test"}, validation=held),
        data_dir=str(real_data),
    )
    assert [(p.train, p.eval, p.found) for p in clean] == [
        ("sft", "sft (validation)", False),
        ("sft", "eval", False),
    ]


@pytest.mark.parametrize("name", ["shell-game", "countdown-gen", "prosqa-gen"])
def test_generators_do_not_leak(name: str) -> None:
    pair = compare(
        read(name=name, limit=5000).examples,
        read(name=name, split="test", limit=300).examples,
        names=("a", "b"),
    )
    assert not pair.found


def test_the_verb() -> None:
    same = {"name": "shell-game", "limit": 30}
    answer = run({"experiment": experiment(train=same, held=same).dump(), "data_dir": None})
    assert answer["found"] is True
    assert answer["pairs"][0]["exact"] == 30
    assert "8-grams" in answer["rule"]
