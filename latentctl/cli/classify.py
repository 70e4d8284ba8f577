"""`latentctl classify`: which rule says what a log is about, and what would be done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentctl.cli import output
from latentctl.errors import Exit, UserError

if TYPE_CHECKING:
    from latentctl.faults.rules import Match

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_BYTES = 4 * 2**20
_DONE = {
    "stop": "stop: a retry would end the same way",
    "requeue": "start the job again, from its checkpoint",
    "requeue_elsewhere": "start the job again on other nodes; this one is left out for a while",
    "smaller_micro_batch": "start the job again with half the micro-batch, at the same global batch",
}


@app.command()
def classify(
    log: Annotated[str, typer.Argument(metavar="LOG", help="A file that a job wrote; - reads stdin.")],
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Also the rules and actions of this cluster profile.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """What a crash log is about: the rule that fires, the lines that show it, what is done about it.

    Exit code 1: no rule fires.

    Example: latentctl classify slurm-4242.out --cluster jupiter
    """
    from latentctl.faults.load import resolved
    from latentctl.spec.load import load_profile

    profile = load_profile(cluster).model_dump() if cluster is not None else {}
    rules = resolved(profile.get("faults"), source=f"cluster profile {cluster}")
    lines = _read(log)
    match = rules.match(lines)
    if as_json:
        output.print_json("classify", None if match is None else _dump(match, lines))
    elif match is None:
        print(f"no rule fires on any of {len(lines):,} lines")
        output.note("hint: a rule of your own goes under faults.rules of the cluster profile")
    else:
        _print(match, lines)
    if match is None:
        raise typer.Exit(Exit.NEGATIVE)


def _read(log: str) -> list[str]:
    """The lines of the log; of a long one those at its end."""
    if log == "-":
        data = sys.stdin.buffer.read()
    else:
        path = Path(log).expanduser()
        try:
            with open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - _BYTES))
                data = file.read()
        except OSError as error:
            raise UserError(
                error.strerror or str(error), where=str(path), hint="LOG is a file; - reads stdin",
                code=Exit.NOT_FOUND if isinstance(error, FileNotFoundError) else Exit.USAGE,
            ) from error  # fmt: skip
    text = data[-_BYTES:].decode("utf-8", "replace")
    return [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n") if line.strip()]


def _places(match: Match, lines: list[str]) -> list[tuple[int, str]]:
    """(number of the line among those that were read, from 1; its text)."""
    from latentctl.faults.rules import cut

    wanted = set(match.lines)
    return [(i, cut(line)) for i, line in enumerate(lines, 1) if cut(line) in wanted][: len(match.lines)]


def _dump(match: Match, lines: list[str]) -> dict[str, Any]:
    rule = match.rule
    return {
        "rule": rule.name,
        "class": rule.kind,
        "source": rule.source,
        "action": rule.action,
        "cause": rule.primary,
        "hint": rule.hint,
        "lines": [{"number": n, "text": text} for n, text in _places(match, lines)],
    }


def _print(match: Match, lines: list[str]) -> None:
    from rich.text import Text

    rule, console = match.rule, output.console()
    what = rule.kind if rule.primary else f"{rule.kind}, probably the consequence of another rank's failure"
    for name, value in (
        ("class", what),
        ("rule", f"{rule.name} ({rule.source})"),
        ("done", _DONE[rule.action]),
    ):
        console.print(Text(f"{name:<6} ", "bold").append(value), soft_wrap=True)
    for number, text in _places(match, lines):
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        console.print(Text(f"{number:>6,}  ", "dim").append(shown), soft_wrap=True)
    if rule.hint:
        output.note(f"hint: {rule.hint}")
