"""The tree of a searched problem, as data and on a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from latentctl.cli.main import app
from latentctl.report.case import Case, case_of
from latentctl.report.case_files import find
from latentctl.report.case_text import print_case
from latentctl.report.case_tree import guide, limbs
from tests.answers import checked
from tests.web.case_runs import fill, make_run, sample, searched


def shown(case: Case, width: int = 80, **more: bool) -> list[str]:
    out = io.StringIO()
    print_case(Console(file=out, width=width, highlight=False), [case], "because", **more)
    return out.getvalue().splitlines()


def case(tmp_path: Path, run: str = "tree", index: int = 0) -> Case:
    found = case_of(find(tmp_path, run), ("p", index))
    assert found is not None
    return found


def branch(index: int, parent: int | None, at: int = 0, *, duplicate: bool = False) -> dict:
    kin = {"parent": parent, "birth": at, "prob": 0.5, "token": "x", "at": at, "duplicate": duplicate}
    return sample("p", index=index, text=f"{'=' * at}{index}", branch=kin)


def test_each_answer_stands_below_the_one_it_left_the_earliest_first(tmp_path: Path) -> None:
    searched(tmp_path)
    tree = case(tmp_path).tree
    assert [limb.row["index"] for limb in tree] == [0, 1, 3, 2]
    assert [guide(limb.guides) for limb in tree] == ["", "├─ ", "│  └─ ", "└─ "]
    assert [limb.doubles for limb in tree] == [2, 0, 0, 0]
    assert tree[0].own == tree[0].row["text"]
    assert tree[2].own == "Then 12 times 2 is 24."


def test_the_terminal_draws_it_and_marks_the_sample_shown(tmp_path: Path) -> None:
    searched(tmp_path)
    lines = shown(case(tmp_path, index=3))
    at = lines.index("tree")
    assert lines[at + 1] == "  4 answers found, 2 deep; 2 more would only repeat the first"
    assert lines[at + 3 :] == [
        "  0 ✓ First 3 plus 4 is 7. So 7 times 2 is 14.",
        "  ├─ 1 ✓ ·times 0.31  times 4 is 12. So 12 plus 2 is 14.",
        " >│  └─ 3 ✗ Then 0.12  Then 12 times 2 is 24.",
        "  └─ 2 ✗ Then 0.20  Then 7 plus 2 is 9.",
    ]


def test_sampled_answers_have_no_tree(tmp_path: Path) -> None:
    fill(make_run(tmp_path / "r", {"score": "eval"}), [sample("p"), sample("p", index=1)])
    assert case(tmp_path, "r").tree == ()
    assert "tree" not in shown(case(tmp_path, "r"))


@pytest.mark.parametrize("width", [80, 30])
def test_a_deep_or_wide_tree_stays_within_the_width_and_is_folded(tmp_path: Path, width: int) -> None:
    chain = [branch(i, i - 1 if i else None, i) for i in range(40)]
    fill(make_run(tmp_path / "deep", {"score": "eval"}), chain)
    one = case(tmp_path, "deep")
    lines = shown(one, width)
    assert max(map(cell_len, lines)) <= width
    assert any("[16 more]" in line for line in lines)
    assert sum("└─" in line for line in shown(one, whole=True)) >= 30
    assert len(one.tree[-1].guides) == 39


def test_rows_of_a_search_that_still_runs_or_are_damaged_stand_alone() -> None:
    """A missing parent, one that is its own, one that comes later: never an endless descent."""
    rows = [branch(1, 0, 2), branch(2, 2, 2), branch(3, 4, 2), branch(4, 3, 2), branch(5, 1, 3)]
    rows.append(sample("p", index=6, branch={"parent": 0}))
    tree = limbs(rows)
    assert sorted(limb.row["index"] for limb in tree) == [1, 2, 3, 4, 5]
    assert [limb.row["index"] for limb in tree if limb.guides] == [5, 4]


def test_json_names_every_answer_of_the_tree(tmp_path: Path) -> None:
    searched(tmp_path)
    done = CliRunner().invoke(app, ["case", "tree", "--runs-dir", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    said = checked(done.output)["data"]["case"]["tree"]
    assert [(limb["index"], limb["parent"], limb["depth"]) for limb in said] == [
        (0, None, 0), (1, 0, 1), (3, 1, 2), (2, 0, 1),
    ]  # fmt: skip
    assert said[2] == {
        "index": 3, "depth": 2, "parent": 1, "at": 23, "token": "Then", "prob": 0.125, "doubles": 0,
        "verdict": "wrong", "extracted": "1",
    }  # fmt: skip
