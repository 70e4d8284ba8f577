"""What commands print: data on stdout, everything else on stderr, one versioned JSON envelope."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentctl.errors import Exit, UserError

if TYPE_CHECKING:
    from rich.console import Console

JSON_VERSION = 1

Json = Annotated[bool, typer.Option("--json", help="One JSON envelope on stdout, failures included.")]
RunsDir = Annotated[
    Path | None,
    typer.Option(
        "--runs-dir",
        envvar="LATENTCTL_RUNS_DIR",
        help="Where runs live. [default: ./runs]",
        show_default=False,
    ),
]


def runs_dir(given: Path | None) -> Path:
    """The folder of all runs: `--runs-dir`, LATENTCTL_RUNS_DIR, else ./runs. Absolute; not created."""
    return (given or Path(os.environ.get("LATENTCTL_RUNS_DIR") or "runs")).expanduser().absolute()


def console(*, stderr: bool = False) -> Console:
    """A rich console that respects NO_COLOR and non-terminals (80 columns there)."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 80, highlight=False, soft_wrap=False)


def note(text: str) -> None:
    """One line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def next_commands(commands: Iterable[tuple[str, str]]) -> None:
    """After an action: what to type next, as (command, why) pairs, on stderr."""
    rows = list(commands)
    width = max((len(c) for c, _ in rows), default=0) + 2
    note("next:")
    for command, why in rows:
        note(f"  {command:<{width}}{why}")


def next_of_run(name: str, state: str, going: tuple[str, str], *, done: bool) -> None:
    """What to do next about a run in that state; `going`: where it still goes on."""
    commands = [(f"latentctl logs {name}", "what its ranks wrote")]
    if state in ("failed", "cancelled", "lost", "planned"):
        commands.append((f"latentctl retry {name}", "resume it"))
    elif not done:
        commands.append(going)
    next_commands(commands)


def print_json(kind: str, data: Any) -> None:
    """The envelope of a success: {"version", "ok", "kind", "data"}."""
    print(
        json.dumps(
            {"version": JSON_VERSION, "ok": True, "kind": kind, "data": data}, ensure_ascii=False, indent=2
        )
    )


def failure(error: UserError, *, as_json: bool) -> None:
    """An expected error: one line and a hint for each problem, or the envelope of a failure."""
    if as_json:
        problems = [{k: v for k, v in vars(p).items() if v is not None} for p in error.problems]
        body = {"kind": error.kind, "exit": int(error.code), "message": str(error), "problems": problems}
        print(json.dumps({"version": JSON_VERSION, "ok": False, "error": body}, ensure_ascii=False, indent=2))
    for problem in error.problems:
        note(f"error: {problem.text()}")


def bug(error: Exception, *, as_json: bool) -> None:
    """An error nobody expected: the traceback, and that it is ours."""
    if as_json:
        body = {
            "kind": "bug",
            "exit": int(Exit.BUG),
            "message": f"{type(error).__name__}: {error}",
            "problems": [],
        }
        print(json.dumps({"version": JSON_VERSION, "ok": False, "error": body}, ensure_ascii=False, indent=2))
    traceback.print_exception(error)
    note("error: this is a bug in latentctl; the traceback above says where")
