"""The surface that scripts and habits rely on: the help of every command, as it stands in a file.

A change here is meant to be seen: `UPDATE_GOLDEN=1 pytest tests/unit/cli/test_cli_help.py` writes them anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from latentctl import __version__
from latentctl.cli.main import COMMANDS, app
from latentctl.errors import Exit

GOLDEN = Path(__file__).with_name("golden_help")


def commands() -> Iterator[tuple[str, ...]]:
    """Every command and sub-command, by its words."""
    yield ()
    group: Any = typer.main.get_command(app)
    for name in COMMANDS:
        yield (name,)
        command = group.get_command(None, name)
        yield from ((name, inner) for inner in getattr(command, "commands", {}))


EVERY = list(commands())


@pytest.mark.parametrize("words", EVERY, ids=lambda words: " ".join(words) or "latentctl")
def test_help_is_what_it_was(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LATENTCTL_RUNS_DIR", "LATENTCTL_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, [*words, "--help"], prog_name="latentctl")
    assert done.exit_code == 0
    said = done.stdout.replace(__version__, "VERSION")
    assert max(map(len, said.splitlines())) <= 80
    file = GOLDEN / f"{'-'.join(words) or 'latentctl'}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(said)
    assert said == file.read_text(), "UPDATE_GOLDEN=1 writes it anew"


def test_no_file_is_left_of_a_command_that_is_gone() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == {"-".join(w) or "latentctl" for w in EVERY}


def test_exit_codes_are_what_they_were() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "OK": 0, "NEGATIVE": 1, "USAGE": 2, "NOT_FOUND": 3, "CLUSTER": 4, "INTERRUPTED": 5, "PENDING": 8,
        "BUG": 70, "CTRL_C": 130,
    }  # fmt: skip
