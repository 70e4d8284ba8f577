"""Heavy verbs in another interpreter, which here is a script."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from latentctl.errors import Exit, UserError
from latentctl.launch.task import run_task


@pytest.fixture
def interpreter(tmp_path: Path):
    """interpreter(shell lines): a `python` that does this; $4 is in.json, $5 out.json."""

    def write(body: str) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return write


def test_the_answer_comes_back(interpreter, capfd: pytest.CaptureFixture[str]) -> None:
    python = interpreter('echo "half way" >&2; echo noise; cp "$4" "$5"')
    assert run_task("grade", {"rows": [1, "ü"]}, python=python) == {"rows": [1, "ü"]}
    out, err = capfd.readouterr()
    assert (out, err) == ("", "half way\n")  # stdout of a command belongs to its own data


def test_the_verb_is_called_with_the_two_packages_only(interpreter) -> None:
    python = interpreter(
        'd=${PYTHONPATH%%:*}; echo "{\\"called\\": \\"$1 $2 $3 $PYTHONSAFEPATH $(ls $d | xargs)\\"}" > "$5"'
    )
    assert run_task("data", {}, python=python) == {"called": "-m jobs.task data 1 jobs latentctl"}


def test_an_error_of_the_verb_is_the_users(interpreter) -> None:
    error = '{"error": {"message": "no file", "hint": "look", "where": "x:3", "exit": 3}}'
    with pytest.raises(UserError) as raised:
        run_task("grade", {}, python=interpreter(f"echo '{error}' > \"$5\"; exit 2"))
    problem = raised.value.problems[0]
    assert (problem.message, problem.hint, problem.where) == ("no file", "look", "x:3")
    assert raised.value.code == Exit.NOT_FOUND


@pytest.mark.parametrize(("body", "how"), [("exit 9", "exit code 9"), ("kill -9 $$", "signal 9")])
def test_a_verb_that_breaks_is_said_so(interpreter, body: str, how: str) -> None:
    with pytest.raises(UserError, match=f"grade ended without an answer \\({how}\\)") as raised:
        run_task("grade", {}, python=interpreter(body))
    assert raised.value.code == Exit.BUG


def test_a_missing_interpreter_is_one_clear_error() -> None:
    with pytest.raises(UserError, match="cannot run /nowhere/python: No such file"):
        run_task("grade", {}, python="/nowhere/python")


def test_a_verb_that_hangs_is_stopped(interpreter) -> None:
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"grade took longer than 0.3 s"):
        run_task("grade", {}, python=interpreter("exec sleep 30"), timeout=0.3)
    assert time.monotonic() - begin < 5


def test_the_real_task_module_answers() -> None:
    with pytest.raises(UserError, match="no verb 'nothing'"):
        run_task("nothing", {})
