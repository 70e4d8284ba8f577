"""The example of `jobs/methods/README.md` is a method that works."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from runs_for_tests import make

from latentctl.record.atomic import read_json
from latentctl.spec.load import load_recipe

README = Path(__file__).resolve().parents[3] / "jobs" / "methods" / "README.md"


def block(name: str) -> str:
    """The fenced block whose first line is a comment with the file's name."""
    found = re.findall(rf"```\w+\n# {re.escape(name)}\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(found) == 1, f"{README}: one block named {name} is wanted"
    return found[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "lengths.py").write_text(block("lengths.py"))
    (tmp_path / "lengths.yaml").write_text(block("lengths.yaml"))
    problems = [
        {"question": "1+1?", "answer": "two"},
        {"question": "what now?", "answer": "four words are here"},
    ]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(p) + "\n" for p in problems))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_runs_from_its_recipe_to_its_result(folder):
    (point,) = load_recipe(folder / "lengths.yaml", []).points
    dumped = point.experiment.dump()
    b = make(folder / "runs", dumped.pop("stages"), plugins=(folder / "lengths.py",), name=dumped["name"])
    (done,) = b.work()
    assert done.code == 0, done.err
    result = read_json(b.job().result)["stages"]["lengths"]
    assert (result["problems"], result["mean_length"], result["method"]) == (2, 2.5, "lengths")
    beat = read_json(b.job().heartbeat)
    assert (beat["step"], beat["total"], beat["unit"]) == (2, 2, "problem")
