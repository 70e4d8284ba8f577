"""What two runs differ in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evals_world import right, sample_rows, score, write_run
from typer.testing import CliRunner

from latentctl.cli.main import app
from latentctl.record.atomic import write_json
from latentctl.record.paths import RunPaths
from latentctl.report.diff import differences, text
from tests.answers import checked


def make(
    runs: Path, name: str, *, lr: float = 1e-3, torch: str = "2.13.0", body: str = "x = 1\n"
) -> RunPaths:
    rows = sample_rows(right(1, 0))
    run = write_run(runs, name, {"score": (score(rows), rows)})
    spec = json.loads(run.spec.read_text())
    spec["experiment"]["stages"][0]["train"] = {"lr": lr, "betas": [0.9, 0.95]}
    write_json(run.spec, spec)
    write_json(run.lock, {"python": {"version": "3.11"}, "packages": {"torch": torch}, "cluster": "local"})
    (run.code / "jobs").mkdir(parents=True)
    (run.code / "jobs" / "worker.py").write_text(body)
    return run


def test_equal_runs_are_the_same(tmp_path: Path) -> None:
    a, b = make(tmp_path, "a"), make(tmp_path, "b")
    spec = json.loads(b.spec.read_text())
    spec["experiment"]["name"] = json.loads(a.spec.read_text())["experiment"]["name"]
    write_json(b.spec, spec)
    found = differences(a, b)
    assert found.same
    assert found.results == []
    assert text(found, ("a", "b")).count("the same") == 4


def test_each_part_names_what_differs(tmp_path: Path) -> None:
    make(tmp_path, "a")
    b = make(tmp_path, "b", lr=1e-4, torch="2.14.0", body="x = 2\n")
    (b.code / "jobs" / "more.py").write_text("y = 1\n")
    result = json.loads(b.job("all").stage("score").result.read_text())
    write_json(b.job("all").stage("score").result, {**result, "accuracy": 1.0})
    place = ["--runs-dir", str(tmp_path)]
    done = CliRunner().invoke(app, ["diff", "a", "b", "--code", *place])
    assert done.exit_code == 1
    for line in (
        "sft.train.lr",
        "0.001 → 0.0001",
        "jobs/worker.py",
        "jobs/more.py    - → ",
        "torch  2.13.0 → 2.14.0",
        "score.accuracy  0.5 → 1",
        "-x = 1",
        "+x = 2",
        "+y = 1",
    ):
        assert line in done.stdout, done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    said = checked(CliRunner().invoke(app, ["diff", "a", "b", "--json", *place]).stdout)["data"]
    assert said["same"] is False
    assert {"key": "torch", "before": "2.13.0", "after": "2.14.0"} in said["environment"]


def test_a_run_with_nothing_but_a_plan_differs_and_does_not_break(tmp_path: Path) -> None:
    a, b = make(tmp_path, "a"), make(tmp_path, "b")
    for path in (b.spec, b.lock):
        path.unlink()
    found = differences(a, b)
    assert found.spec
    assert all(change.after is None for change in found.spec)


@pytest.mark.parametrize("pair", [("a", "nothing"), ("nothing", "a")])
def test_an_unknown_run_is_one_error(tmp_path: Path, pair: tuple[str, str]) -> None:
    make(tmp_path, "a")
    done = CliRunner().invoke(app, ["diff", *pair, "--runs-dir", str(tmp_path)])
    assert done.exit_code not in (0, 1) or done.exception is not None
    assert "no run 'nothing'" in str(done.exception)
