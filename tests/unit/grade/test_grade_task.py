"""Grading again, and grading anybody's files: through the command line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.grade import samples
from jobs.grade.judge import judge, summary
from latentctl.cli.main import main
from latentctl.record.atomic import read_json, write_json
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan
from tests.answers import checked


def latentctl(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    return int(caught.value.code or 0)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def outputs(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


ROWS = [
    {"id": "a", "gold": "1,234", "prediction": "so #### 1234"},
    {"id": 7, "gold": 5, "prediction": ["\\boxed{5}", "\\boxed{6}"]},
    {"gold": "2", "prediction": "no number\u2028here"},
]


def test_one_verdict_per_prediction_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = outputs(tmp_path / "o.jsonl", ROWS)
    assert latentctl("grade", str(file), "--grader", "numeric") == 0
    shown = capsys.readouterr()
    rows = lines(shown.out)
    assert [r["verdict"] for r in rows] == ["correct", "correct", "wrong", "wrong"]
    assert [(r["line"], r["index"]) for r in rows] == [(1, 0), (2, 0), (2, 1), (3, 0)]
    assert [r.get("id") for r in rows] == ["a", "7", "7", None]
    assert rows[0]["extracted"] == "1234"
    assert all(r["reason"] for r in rows)
    assert "2 correct, 2 wrong (50.0 %" in shown.err


def test_fields_out_file_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = outputs(
        tmp_path / "o.jsonl", [{"target": 36, "nums": [79, 17, 60], "said": "<answer>79-60+17</answer>"}]
    )
    out = tmp_path / "verdicts.jsonl"
    args = ["--grader", "countdown", "--gold", "target", "--prediction", "said", "--out", str(out), "--json"]
    assert latentctl("grade", str(file), *args) == 0
    told = checked(capsys.readouterr().out)
    assert (told["ok"], told["data"]["correct"], told["data"]["out"]) == (True, 1, str(out))
    assert lines(out.read_text())[0]["verdict"] == "correct"


def test_malformed_rows_are_named_and_the_others_graded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "o.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"gold": "1", "prediction": "1"}\r\n'
        b'{"gold": "1", "predic\n'
        b'{"gold": "1"}\n'
        b"[1, 2]\n"
        b'{"gold": "1", "prediction": {"a": 1}}\n'
        b'{"gold": "1", "prediction": []}\n'
        b'{"gold": "\xff", "prediction": "1"}\n'
        b"\n"
        b'{"gold": "1", "prediction": "1"}'
    )
    assert latentctl("grade", str(file), "--grader", "exact") == 1
    shown = capsys.readouterr()
    rows = lines(shown.out)
    assert [r["verdict"] for r in rows] == ["correct", *["malformed"] * 6, "correct"]
    assert rows[-1]["line"] == 9
    for number, word in ((2, "not JSON"), (3, "no field 'prediction'"), (4, "not an object"),
                         (5, "holds dict"), (6, "an empty list"), (7, "not UTF-8")):  # fmt: skip
        assert f"{file}:{number}: {word}" in shown.err or word in rows[number - 1]["reason"]
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("make", "args", "code", "word"),
    [
        (None, ["--grader", "exact"], 3, "no such file"),
        (b"", ["--grader", "exact"], 2, "the file is empty"),
        (b'{"gold": "1", "prediction": "1"}\n', [], 2, "--grader"),
        (b'{"gold": "1", "prediction": "1"}\n', ["--grader", "exakt"], 2, "did you mean 'exact'"),
        (
            b'{"gold": "1", "prediction": "1"}\n',
            ["--grader", "exact", "--out", "/nowhere/x"],
            2,
            "no such folder",
        ),
        (
            b'{"gold": "1", "prediction": "1"}\n',
            ["--grader", "exact", "--plugin", "none.py"],
            2,
            "no such plugin",
        ),
        (b'{"gold": "1", "prediction": "1"}\n', ["--grader", "exact", "--stage", "x"], 2, "--stage"),
    ],
)
def test_wrong_usage_is_one_clear_error(
    make: bytes | None,
    args: list[str],
    code: int,
    word: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "o.jsonl"
    if make is not None:
        file.write_bytes(make)
    assert latentctl("grade", str(file), *args) == code
    shown = capsys.readouterr()
    assert word in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_a_gzip_file_cut_short_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "o.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"gold": "1", "prediction": "1"}\n' * 5000)[:-20])
    assert latentctl("grade", str(file), "--grader", "exact") == 2
    assert "cannot be read" in capsys.readouterr().err


def test_own_grader_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = outputs(tmp_path / "o.jsonl", [{"gold": "x", "prediction": p} for p in ("x", "raise")])
    plugin = str(Path(__file__).with_name("hanging_graders.py"))
    assert latentctl("grade", str(file), "--grader", "wild", "--plugin", plugin) == 0
    assert [r["verdict"] for r in lines(capsys.readouterr().out)] == ["correct", "error"]


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A finished run whose eval was graded by `exact`."""
    import sys

    run = RunPaths(tmp_path / "runs" / "demo-12345678")
    job = JobPlan("main", ["eval"], [], "eval", 1, 1, 0, None, None, 60, sys.executable)
    run.root.mkdir(parents=True)
    Plan("demo-12345678", "0" * 64, {}, [job]).save(run.plan)
    stage = {"name": "eval", "method": "eval", "eval": {"grade_timeout": 5.0}}
    write_json(run.spec, {"experiment": {"stages": [stage]}})
    rows = [
        {
            "id": f"p{i}",
            "index": 0,
            "text": text,
            "gold": "12",
            "meta": {},
            "markers": ["<think>", "</think>"],
            "cause": "eos",
            "tokens": 3,
            "forced": 0,
        }
        for i, text in enumerate(["### 12", "### 12.0", "12 dollars", "### 13"])
    ]
    graded = judge(rows, "exact", timeout=5)
    paths = run.job("main").stage("eval")
    samples.write(paths.samples, graded)
    numbers = {"stage": "eval", "grader": "exact", "dataset": "d", "tokens_per_s": 9.0, **summary(graded)}
    write_json(paths.result, numbers)
    write_json(run.job("main").result, {"attempt": 1, "stages": {"eval": numbers}})
    return run


def test_a_run_is_graded_again_in_place(run: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    paths = run.job("main").stage("eval")
    assert read_json(paths.result)["accuracy"] == 0.25
    assert latentctl("grade", "demo", "--grader", "numeric", "--runs-dir", str(run.root.parent)) == 0
    shown = capsys.readouterr()
    assert "2 verdicts changed" in shown.out
    result = read_json(paths.result)
    assert (result["accuracy"], result["grader"], result["tokens_per_s"]) == (0.75, "numeric", 9.0)
    assert read_json(run.job("main").result)["stages"]["eval"] == result
    assert [r["verdict"] for r in samples.read(paths.samples)] == ["correct", "correct", "correct", "wrong"]


def test_grading_again_without_a_change_touches_nothing(
    run: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = run.job("main").stage("eval")
    before = paths.samples.stat().st_mtime_ns, paths.result.stat().st_mtime_ns
    assert latentctl("grade", str(run.root), "--json") == 0
    told = checked(capsys.readouterr().out)
    assert told["data"]["stages"][0]["changed"] == []
    assert (paths.samples.stat().st_mtime_ns, paths.result.stat().st_mtime_ns) == before


def test_runs_that_cannot_be_graded_say_why(run: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--runs-dir", str(run.root.parent)]
    assert latentctl("grade", "demo", "--stage", "other", *where) == 3
    assert "its eval stages: eval" in capsys.readouterr().err
    assert latentctl("grade", "nothing", *where) == 3
    capsys.readouterr()
    assert latentctl("grade", "demo", "--out", "x", *where) == 2
    capsys.readouterr()
    run.job("main").stage("eval").result.unlink()
    assert latentctl("grade", "demo", *where) == 2
    assert "has not finished" in capsys.readouterr().err
