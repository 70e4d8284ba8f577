"""`latentctl classify`: the rule, its lines with their numbers, and what is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latentctl.cli.main import app
from latentctl.errors import UserError

ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "job.log"
    path.write_text(f"a\nb\n10%\r90%\n{ECC}\n\x1b[31mlast\n")
    return path


def test_it_names_rule_lines_and_action(log: Path) -> None:
    done = CliRunner().invoke(app, ["classify", str(log)])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "class  node",
        "rule   gpu_broken (20-node.yaml)",
        "done   start the job again on other nodes; this one is left out for a while",
        f"     4  {ECC}",
    ]
    assert "hint: the node's administrators" in done.stderr


def test_json_has_the_same(log: Path) -> None:
    said = json.loads(CliRunner().invoke(app, ["classify", str(log), "--json"]).stdout)["data"]
    assert (said["rule"], said["class"], said["action"]) == ("gpu_broken", "node", "requeue_elsewhere")
    assert said["lines"] == [{"number": 4, "text": ECC}]


def test_stdin_and_a_log_without_a_failure() -> None:
    done = CliRunner().invoke(app, ["classify", "-"], input="all is well\n")
    assert done.exit_code == 1
    assert "no rule fires on any of 1 lines" in done.stdout


def test_the_rules_of_a_profile_go_first(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mine.yaml").write_text(
        "name: mine\nexecutor: local\nfaults:\n  rules:\n"
        "    - {name: ours, class: node, patterns: ['uncorrectable ECC'], action: stop, hint: call us}\n"
    )
    monkeypatch.chdir(tmp_path)
    said = json.loads(CliRunner().invoke(app, ["classify", str(log), "--cluster", "mine", "--json"]).stdout)
    assert (said["data"]["rule"], said["data"]["action"], said["data"]["hint"]) == ("ours", "stop", "call us")


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["classify", str(tmp_path / "nothing.log")])
    assert isinstance(done.exception, UserError)
    assert done.exception.code == 3
    assert "No such file" in str(done.exception)
