"""The real files load as they are, found by data_dir alone; counts and spot checks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from data_reading import read

from jobs.data.expressions import solves

COUNTS = [
    ("gsm8k", "train", 7473),
    ("gsm8k", "test", 1319),
    ("gsm8k-aug", "train", 6973),
    ("gsm8k-aug", "valid", 500),
    ("gsm8k-aug", "test", 1319),
    ("svamp", "test", 1000),
    ("math500", "test", 500),
    ("aime", "test", 60),
    ("aime", "2024", 30),
    ("aime", "2025", 30),
    ("amc", "test", 40),
    ("mmlu-stem", "test", 3018),
    ("arc-challenge", "train", 1119),
    ("arc-challenge", "test", 1172),
    ("countdown", "train", 117_000),
    ("countdown", "valid", 200),
    ("countdown", "test", 500),
    ("prosqa", "valid", 300),
    ("prosqa", "test", 500),
    ("prontoqa", "train", 4500),
    ("prontoqa", "valid", 200),
    ("prontoqa", "test", 800),
]

FILES = [
    ("gsm8k", "tokenskip/gsm8k_train.jsonl.gz", 7473),
    ("gsm8k", "tokenskip/gsm8k_test.jsonl", 1319),
    ("gsm8k-aug", "gsm8k_icot/train_no_aug.txt.gz", 6973),
    ("gsm8k-aug", "gsm8k_icot/gsm_valid.json", 500),
    ("gsm8k-aug", "gsm8k_icot/gsm_test.json", 1319),
    ("gsm8k-aug", "mult_icot/4_by_4_mult_valid.txt", 1000),
    ("math500", "math/math500_soft_thinking.json", 500),
    ("math500", "tokenskip/math500_test.jsonl", 500),
    ("aime", "aime_amc/aime2024.json", 30),
    ("amc", "aime_amc/amc23.json", 40),
    ("countdown", "countdown/raw_test.json", 500),
    ("countdown", "countdown/sft_train_2k.jsonl.gz", 2000),
    ("countdown", "countdown/d1_countdown_cd3_test.jsonl", 256),
    ("prontoqa", "prontoqa/logic_llm_dev.json", 500),
]


@pytest.mark.parametrize(("name", "split", "count"), COUNTS)
def test_found_by_data_dir(real_data: Path, name: str, split: str, count: int) -> None:
    loaded = read(name=name, split=split, data_dir=real_data)
    assert len(loaded.examples) == loaded.total == count
    assert len({e.id for e in loaded.examples}) == count
    assert all(e.question.strip() for e in loaded.examples)
    if name != "countdown":
        assert all(e.answer for e in loaded.examples)


@pytest.mark.parametrize(("name", "file", "count"), FILES)
def test_named_by_path(real_data: Path, name: str, file: str, count: int) -> None:
    assert len(read(str(real_data / file), name=name).examples) == count


def test_found_by_environment(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTCTL_DATA", str(real_data))
    assert len(read(name="svamp", split="test").examples) == 1000


def test_the_row_with_a_line_separator_stays_whole(real_data: Path) -> None:
    examples = read(str(real_data / "gsm8k_icot" / "train_no_aug.txt.gz"), name="gsm8k-aug").examples
    found = [e for e in examples if "\u2028" in e.question]
    assert [e.question[:10] for e in found] == ["Clive open"]
    assert found[0].answer == "36"


def test_formula_steps_of_gsm8k_are_those_of_the_stepwise_files(real_data: Path) -> None:
    """Two readings of the same problems by different hands agree: ours of the original, and iCoT's file."""
    original = {e.question.strip(): e for e in read(name="gsm8k", split="test", data_dir=real_data).examples}
    for file in ("test.txt", "gsm_test.json"):
        stepwise = read(str(real_data / "gsm8k_icot" / file), name="gsm8k-aug").examples
        assert len(stepwise) == 1319
        for example in stepwise:
            twin = original[example.question.strip()]
            assert twin.variants["formula"] == example.steps
            assert twin.answer == example.answer


def test_gsm8k_golds(real_data: Path) -> None:
    for split, with_comma, negative in (("train", 79, 3), ("test", 14, 2)):
        loaded = read(name="gsm8k", split=split, data_dir=real_data)
        assert all(e.answer.lstrip("-").isdigit() for e in loaded.examples)
        assert sum(e.answer.startswith("-") for e in loaded.examples) == negative
        path = Path(loaded.source)
        raw = __import__("gzip").open(path).read() if path.suffix == ".gz" else path.read_bytes()
        golds = [json.loads(row)["answer"].rpartition("####")[2] for row in raw.decode().split("\n") if row]
        assert sum("," in g for g in golds) == with_comma


def test_aime_golds_agree_between_files(real_data: Path) -> None:
    own = read(str(real_data / "aime_amc" / "aime24_test.jsonl"), name="aime").examples
    other = read(str(real_data / "aime_amc" / "aime2024.json"), name="aime").examples
    assert Counter(e.answer for e in own) == Counter(e.answer for e in other)
    assert {"25", "73"} <= {e.answer for e in own}


def test_amc_golds_agree_between_files(real_data: Path) -> None:
    own = read(str(real_data / "aime_amc" / "amc23_test.jsonl"), name="amc").examples
    other = read(str(real_data / "aime_amc" / "amc23.json"), name="amc").examples
    assert [e.answer for e in own] == [e.answer for e in other]
    assert own[0].answer == "27"


def test_choices(real_data: Path) -> None:
    answers = Counter(e.answer for e in read(name="arc-challenge", split="test", data_dir=real_data).examples)
    assert answers == {"A": 266, "B": 311, "C": 310, "D": 285}
    example = read(name="mmlu-stem", split="test", data_dir=real_data).examples[0]
    assert example.answer == "C"
    assert example.question.count("\n") == 4


def test_prosqa_steps_walk_along_the_facts(real_data: Path) -> None:
    loaded = read(name="prosqa", split="test", data_dir=real_data)
    lengths = Counter(len(e.steps) for e in loaded.examples)
    assert lengths == {3: 202, 4: 217, 5: 69, 6: 12}
    for example in loaded.examples:
        assert all(step in example.question for step in example.steps)
        assert example.answer == f"{example.meta['root']} is a {example.meta['target']}."


def test_prontoqa_steps(real_data: Path) -> None:
    assert {len(e.steps) for e in read(name="prontoqa", split="test", data_dir=real_data).examples} == {6}
    raw = read(name="prontoqa", data_dir=real_data).examples
    assert {len(e.steps) for e in raw} == {4, 5, 6}
    assert Counter(e.answer for e in raw) == {"True": 2279, "False": 2221}


def test_countdown_solutions_hold(real_data: Path) -> None:
    for example in read(name="countdown", split="test", data_dir=real_data).examples:
        assert solves(example.answer, example.meta["nums"], example.meta["target"])


def test_raw_countdown_rows_can_be_solved(real_data: Path) -> None:
    loaded = read(name="countdown", seed=3, limit=100, options={"solve": True}, data_dir=real_data)
    assert len(loaded.examples) == 100
    for example in loaded.examples:
        assert solves(example.answer, example.meta["nums"], example.meta["target"])


def test_a_split_that_is_not_there_says_where_it_looked(real_data: Path) -> None:
    from jobs.runtime.errors import JobUserError

    with pytest.raises(JobUserError) as caught:
        read(name="prosqa", data_dir=real_data)
    assert str(real_data / "prosqa") in caught.value.message
    assert "path: FILE" in (caught.value.hint or "")
