"""A cluster profile with a Python for training and another for evaluation: each stage runs in its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY, Cli, make_cli

pytestmark = pytest.mark.heavy


def python(folder: Path, role: str) -> Path:
    """An interpreter of that role: this one, after it has noted what it was asked to run."""
    path = folder / f"python-{role}"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/{role}.calls\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


def workers(cli: Cli, role: str) -> list[str]:
    """The jobs whose workers an interpreter was asked to run."""
    calls = (cli.folder / f"{role}.calls").read_text().splitlines()
    return [words.split()[3] for words in calls if words.startswith("-m jobs.worker")]


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    made = make_cli(tmp_path_factory.mktemp("two"))
    train, score = (python(made.folder, role) for role in ("train", "eval"))
    (made.folder / "cluster").mkdir()
    (made.folder / "cluster" / "two.yaml").write_text(
        f"name: two\nexecutor: local\ninterpreter: {{train: {train}, eval: {score}}}\n"
    )
    return made


def test_training_and_evaluation_run_each_in_its_own_python(cli: Cli) -> None:
    done = cli("submit", cli.recipe(TINY), "--cluster", "two", "--wait")
    assert "ACCURACY" in done.out
    run = cli.run_dir()
    assert workers(cli, "train") == ["sft"]
    assert workers(cli, "eval") == ["score"]
    plan = json.loads((run / "plan.json").read_text())
    assert [(j["name"], j["role"], j["after"]) for j in plan["jobs"]] == [
        ("sft", "train", []),
        ("score", "eval", ["sft"]),
    ]
    for job, role in (("sft", "train"), ("score", "eval")):
        attempt = json.loads((run / "jobs" / job / "attempts" / "1" / "attempt.json").read_text())
        assert attempt["interpreter"] == str(cli.folder / f"python-{role}")
    result = json.loads((run / "jobs" / "score" / "result.json").read_text())
    assert result["stages"]["score"]["n"] == 12


def test_an_evaluation_between_two_trainings_splits_them(cli: Cli) -> None:
    three = TINY + "  - {name: again, method: sft, from: sft}\n"
    done = cli(
        "submit",
        cli.recipe(three, "three.yaml"),
        "--cluster",
        "two",
        "--name",
        "three",
        "--dry-run",
        "--json",
    )
    jobs = done.json["data"]["runs"][0]["jobs"]
    assert [(j["name"], j["after"]) for j in jobs] == [("sft", []), ("score", ["sft"]), ("again", ["sft"])]


def test_a_missing_interpreter_of_one_role_fails_its_job_alone(cli: Cli) -> None:
    profile = (cli.folder / "cluster" / "two.yaml").read_text()
    (cli.folder / "cluster" / "half.yaml").write_text(
        profile.replace("name: two", "name: half").replace("python-eval", "nowhere/python")
    )
    done = cli("submit", cli.recipe(), "--cluster", "half", "--name", "half", "--wait", code=1)
    assert "nowhere/python: No such file" in done.out + done.err
    assert "interpreter.eval of the cluster profile" in done.out + done.err
    run = next(cli.runs.glob("half-*"))
    assert (run / "jobs" / "sft" / "result.json").exists()
