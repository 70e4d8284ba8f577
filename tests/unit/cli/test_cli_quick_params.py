"""The short way of parameters gives what Typer's own way gives."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import typer

from latentctl.cli.main import COMMANDS
from latentctl.cli.quick_params import quicken

LINES = [
    ("status", []),
    ("status", ["a", "b", "--watch", "--every", "2", "--runs-dir", "x/y", "--json"]),
    ("status", ["--every", "x"]),
    ("logs", ["a", "--attempt", "2", "--rank", "all", "--tail", "7", "-f"]),
    ("logs", ["a", "--attempt", "0"]),
    ("logs", ["a", "--tail", "many"]),
    ("logs", []),
    ("submit", ["r.yaml", "--set", "a=1", "--set", "b=2", "--name", "n"]),
    ("eval", ["--checkpoint", "a", "--dataset", "d", "--limit", "3", "--no-wait"]),
    ("eval", ["--checkpoint", "a", "--dataset", "d", "--limit", "0"]),
    ("sweep", ["r.yaml", "--grid", "a=1,2", "--unknown"]),
    ("cancel", ["a", "b"]),
]


def parsed(name: str, line: list[str], *, quick: bool) -> dict[str, Any] | str:
    """The values that a command would get, or the words of its refusal."""
    command: Any = typer.main.get_command(importlib.import_module(COMMANDS[name][1]).app)
    if quick:
        quicken(command)
    try:
        context = command.make_context(name, list(line))
    except Exception as error:
        return f"{type(error).__name__}: {getattr(error, 'message', error)}"
    return {k: (type(v), v) for k, v in context.params.items()}


@pytest.mark.parametrize(("name", "line"), LINES)
def test_the_short_way_and_the_long_way_agree(
    name: str, line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LATENTCTL_RUNS_DIR", raising=False)
    assert parsed(name, line, quick=True) == parsed(name, line, quick=False)


def test_the_short_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a newer Typer is built otherwise this fails, and the start-up budget is at stake."""
    import typer.core

    def too_slow(*_: object) -> None:
        raise AssertionError("Typer's conversion was used")

    monkeypatch.setattr(typer.core, "build_runtime_param", too_slow)
    assert isinstance(parsed("status", ["a"], quick=True), dict)
    assert "Typer's conversion" in str(parsed("status", ["a"], quick=False))
