"""Heavy verbs of the CLI: a mapping in, a mapping out, mistakes in words."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jobs import task
from jobs.runtime.errors import JobUserError


def call(tmp_path: Path, verb: str, content: str = "{}") -> tuple[int, dict[str, Any]]:
    (tmp_path / "in.json").write_text(content)
    code = task.main([verb, str(tmp_path / "in.json"), str(tmp_path / "out.json")])
    return code, json.loads((tmp_path / "out.json").read_text())


@pytest.fixture
def verb(monkeypatch):
    """Makes the verb `try` run a function."""

    def make(function: Any) -> None:
        module = ModuleType("a_verb")
        module.run = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "a_verb", module)
        monkeypatch.setitem(task.VERBS, "try", "a_verb:run")

    return make


def test_a_verb_answers(tmp_path, verb):
    verb(lambda payload: {"double": payload["x"] * 2})
    assert call(tmp_path, "try", '{"x": 21}') == (0, {"double": 42})


def test_a_users_mistake_comes_back_in_words(tmp_path, verb, capsys):
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise JobUserError("no such file", "look twice", "a.jsonl:7")

    verb(refuse)
    code, out = call(tmp_path, "try")
    assert code == 2
    assert out["error"] == {
        "message": "no such file",
        "hint": "look twice",
        "where": "a.jsonl:7",
        "exit": 2,
        "class": "user_error",
    }
    assert capsys.readouterr().err == ""


def test_a_bug_comes_back_as_one_with_its_traceback_on_stderr(tmp_path, verb, capsys):
    verb(lambda payload: payload["missing"])
    code, out = call(tmp_path, "try")
    assert (code, out["error"]["exit"], out["error"]["class"]) == (1, 70, "code")
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "says"), [("", "cannot be read"), ("[1]", "not a mapping"), ("{", "cannot be read")]
)
def test_a_broken_input_is_named(tmp_path, content, says):
    code, out = call(tmp_path, "doctor", content)
    assert code == 2
    assert says in out["error"]["message"]
    assert out["error"]["where"].endswith("in.json")


def test_an_unknown_verb_and_wrong_usage(tmp_path, capsys):
    code, out = call(tmp_path, "dance")
    assert code == 2
    assert "no verb 'dance'; there are data, leakage, grade, doctor" in out["error"]["message"]
    assert task.main([]) == 2
    assert capsys.readouterr().err.startswith("usage:")


@pytest.mark.parametrize("name", task.VERBS)
def test_every_verb_has_its_function(name):
    module, _, function = task.VERBS[name].partition(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.heavy
def test_doctor_looks_at_this_machine(tmp_path):
    (tmp_path / "in.json").write_text("{}")
    command = [
        sys.executable,
        "-m",
        "jobs.task",
        "doctor",
        str(tmp_path / "in.json"),
        str(tmp_path / "out.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["problems"] == []
    assert found["python"]["executable"] == sys.executable
    assert found["versions"]["torch"].startswith("2.")
    assert found["deepspeed"]["imports"] is True
    assert "gloo" in found["torch"]["backends"]
    assert found["cpus"] >= 1
