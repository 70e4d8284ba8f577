"""From searched answers to labelled rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.methods.divergence import rows
from jobs.methods.divergence.labels import label
from jobs.models.vocab import train
from jobs.runtime.errors import JobUserError
from latentctl.spec.model import TokenizerInit

LABELS = [
    ("12", "12", "numeric", 1.0),
    (" 12 ", "12", "numeric", 1.0),
    ("12", "12.0", "numeric", 0.5),
    ("1/2", "0.5", "numeric", 0.5),
    ("12", "13", "numeric", 0.0),
    ("12", "no idea", "numeric", 0.0),
    ("1+2*3", "1 + 2 * 3", "countdown", 1.0),
    ("1+(2*3)", "1+2*3", "countdown", 1.0),
    ("1+2*3", "2*3+1", "countdown", 0.5),
    ("(1+2)*3", "1+2*3", "countdown", 0.0),
    ("1×2", "1*2", "countdown", 1.0),
    ("1/0", "2/0", "countdown", 0.0),
    ("nonsense", "1+2", "countdown", 0.0),
    ("9**9**9", "9*9*9", "countdown", 0.0),
    ("B", "b", "choice", 1.0),
    ("B", "C", "choice", 0.0),
    ("0.5", "1/2", "math", 0.5),
    ("\\frac12", "1/2", "math", None),
    ("x+1", "1+x", "math", None),
]


@pytest.mark.parametrize(("one", "other", "grader", "expected"), LABELS)
def test_labels_of_two_answers(one: str, other: str, grader: str, expected: float | None) -> None:
    assert label(one, other, grader) == expected
    assert label(other, one, grader) == expected


def row(
    index: int, text: str, answer: str | None, parent: int | None = None, at: int = 0, **more: Any
) -> Any:
    branch = {"parent": parent, "birth": at, "prob": 0.5, "token": "", "at": at, "duplicate": False}
    found = {"id": "p", "index": index, "text": text, "extracted": answer, "cause": "eos", "branch": branch}
    return found | more


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train(TokenizerInit(kind="byte"), [], max_len=64)


def test_every_answered_branch_is_paired_with_the_row_it_left() -> None:
    tree = [
        row(0, "abcdef", "1"),
        row(1, "abXYZ", "1", parent=0, at=2),
        row(2, "abXQQ", "2", parent=1, at=3),
        row(3, "aUUUU", None, parent=0, at=1),
        row(4, "aVVVV", "1", parent=0, at=1, cause="length"),
        row(5, "abcdef", "1", parent=0, at=0) | {"branch": row(0, "", "")["branch"] | {"duplicate": True}},
    ]
    found = list(rows.pairs(tree, "numeric"))
    assert [(p.sample, p.at, p.label) for p in found] == [(1, 2, 1.0), (2, 3, 0.0)]


def test_windows_begin_where_the_two_part(tokenizer: Any) -> None:
    (pair,) = rows.pairs(
        [row(0, "start: 1+2=3", "1"), row(1, "start: 4-5=9", "2", parent=0, at=7)], "numeric"
    )
    found = list(rows.windows(pair, tokenizer, [2, 3, 50], 4))
    assert [r["before"] for r in found] == ["rt: "] * 3
    texts = [{r["one"], r["other"]} for r in found]
    assert texts == [{"1+", "4-"}, {"1+2", "4-5"}, {"1+2=3", "4-5=9"}]
    assert [r["label"] for r in found] == [0.0] * 3


def test_a_window_that_would_repeat_a_row_is_left_out(tokenizer: Any) -> None:
    (pair,) = rows.pairs([row(0, "ab12", "1"), row(1, "ab34", "2", parent=0, at=2)], "numeric")
    assert len(list(rows.windows(pair, tokenizer, [2, 20, 50], 4))) == 1
    (pair,) = rows.pairs([row(0, "ab1", "1"), row(1, "ab34", "2", parent=0, at=2)], "numeric")
    assert list(rows.windows(pair, tokenizer, [2, 20], 4)) == []  # one token says nothing


def test_a_coin_decides_the_order_and_falls_the_same_again(tokenizer: Any) -> None:
    orders = []
    for i in range(200):
        tree = [row(0, "ab12", "1"), row(1, "ab34", "2", parent=0, at=2)]
        for each in tree:
            each["id"] = f"p{i}"
        (pair,) = rows.pairs(tree, "numeric")
        one, two = (next(iter(rows.windows(pair, tokenizer, [2], 4))) for _ in range(2))
        assert one == two
        orders.append(one["one"] == "34")
    assert 60 < sum(orders) < 140


def test_problems_are_balanced_each_by_itself() -> None:
    many = [
        {"problem": p, "label": y, "n": i}
        for p, counts in {"a": (5, 1, 2), "b": (0, 3, 4), "c": (1, 3, 4)}.items()
        for y, count in zip((0.0, 0.5, 1.0), counts, strict=True)
        for i in range(count)
    ]
    kept = rows.balanced(many)
    count = lambda p: [sum(r["problem"] == p and r["label"] == y for r in kept) for y in (0, 0.5, 1)]  # noqa: E731
    assert (count("a"), count("b"), count("c")) == ([2, 1, 2], [0, 0, 0], [1, 1, 1])
    assert rows.balanced(many) == kept


def test_the_held_out_problems_are_whole_and_about_as_many_as_asked() -> None:
    held = [rows.held_out({"problem": f"p{i}"}, 0.2, 7) for i in range(2000)]
    assert 330 < sum(held) < 470
    assert held == [rows.held_out({"problem": f"p{i}", "one": "x"}, 0.2, 7) for i in range(2000)]
    assert held != [rows.held_out({"problem": f"p{i}"}, 0.2, 8) for i in range(2000)]


@pytest.mark.parametrize(
    "line",
    ["", "{}", "[1]", '{"problem": "p", "before": "", "one": "a", "other": "b", "label": 2}',
     '{"problem": 1, "before": "", "one": "a", "other": "b", "label": 1}', "{"],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path: Path, line: str) -> None:
    good = '{"problem": "p", "before": "", "one": "a", "other": "b", "label": 1}'
    path = tmp_path / "d.jsonl"
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(JobUserError, match=r"d\.jsonl:2: this is no row of divergence data"):
        rows.read(path, "d", where="judge.divergence.data")


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("")
    with pytest.raises(JobUserError, match="holds no row"):
        rows.read(tmp_path / "d.jsonl", "d", where="x")
