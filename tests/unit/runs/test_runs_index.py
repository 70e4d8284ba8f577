"""Runs are found by id, unambiguous prefix, or @last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentctl.errors import UserError
from latentctl.record.atomic import write_json
from latentctl.runs.index import all_runs, find_run
from latentctl.runs.sweeps import select


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for i, name in enumerate(["gsm-11111111", "gsm-11111111-r2", "gsm-22222222", "other-33333333"]):
        (tmp_path / name).mkdir()
        plan = tmp_path / name / "plan.json"
        plan.write_text("{}")
        os.utime(plan, (1000 + i, 1000 + i))
    (tmp_path / ".new-gsm-1").mkdir()
    (tmp_path / ".new-gsm-1" / "plan.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    points = [
        {"run": "gsm-22222222", "varies": {}},
        {"run": "other-33333333", "varies": {}},
        {"run": "gone", "varies": {}},
    ]
    write_json(tmp_path / "sweeps" / "sw-12345678" / "sweep.json", {"id": "sw-12345678", "points": points})
    return tmp_path


def test_only_whole_runs_count_newest_first(runs: Path) -> None:
    assert [r.id for r in all_runs(runs)] == [
        "other-33333333",
        "gsm-22222222",
        "gsm-11111111-r2",
        "gsm-11111111",
    ]
    assert all_runs(runs / "absent") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("@last", "other-33333333"),
        ("o", "other-33333333"),
        ("gsm-2", "gsm-22222222"),
        ("gsm-11111111", "gsm-11111111"),
        ("gsm-11111111-r", "gsm-11111111-r2"),
    ],
)
def test_a_name_an_unambiguous_prefix_or_the_last(runs: Path, text: str, found: str) -> None:
    assert find_run(runs, text).id == found


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("gsm", "ambiguous", "gsm-11111111, gsm-11111111-r2, gsm-22222222"),
        ("gms-22222222", "not_found", "did you mean gsm-22222222"),
        ("", "not_found", "did you mean"),
        ("../etc", "not_found", "did you mean"),
        (".new", "not_found", "did you mean"),
    ],
)
def test_a_miss_names_the_nearest_with_exit_code_3(runs: Path, text: str, kind: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        find_run(runs, text)
    assert (caught.value.code, caught.value.kind) == (3, kind)
    assert words in (caught.value.problems[0].hint or "")


def test_no_runs_at_all_says_how_to_start_one(tmp_path: Path) -> None:
    for text in ("@last", "x"):
        with pytest.raises(UserError) as caught:
            find_run(tmp_path, text)
        assert "latentctl submit" in (caught.value.problems[0].hint or "")


def test_a_sweep_stands_for_its_points(runs: Path) -> None:
    assert [r.id for r in select(runs, ["sw-", "gsm-2"])] == ["gsm-22222222", "other-33333333"]
    with pytest.raises(UserError):
        select(runs, ["nothing"])
