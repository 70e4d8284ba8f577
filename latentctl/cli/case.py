"""`latentctl case`: one problem's chain, each latent step with what it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from latentctl.cli import output
from latentctl.errors import UserError

if TYPE_CHECKING:
    from latentctl.report.case import Case, Changed, Choice
    from latentctl.report.case_files import Evaluation

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class _BareHtml(typer.core.TyperCommand):
    """`--html` may stand alone and means this folder then: it takes the next word only where that ends in
    .html."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [*_said_in_full(args)])


def _said_in_full(args: Sequence[str]) -> Iterator[str]:
    for word, following in zip_longest(args, args[1:], fillvalue=""):
        bare = word == "--html" and not following.lower().endswith((".html", ".htm"))
        yield "--html=." if bare else word


@app.command(cls=_BareHtml)
def case(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN[/STAGE]",
            help="A run, a prefix or @last; its last evaluation with samples if no stage is said. A GRPO "
            "stage shows some of its rollouts.",
            show_default=False,
        ),
    ],
    id: Annotated[
        str | None,
        typer.Option("--id", metavar="N", help="A problem: its id, the end of its id, or the n-th (from 1)."),
    ] = None,
    index: Annotated[
        int | None, typer.Option("--index", min=0, help="Which of a problem's samples, from 0.")
    ] = None,
    worst: Annotated[
        bool,
        typer.Option(
            "--worst",
            help="The wrong answer with the largest mean entropy of its latent steps; without traces, with "
            "the lowest log-probability per token.",
        ),
    ] = False,
    changed: Annotated[
        str | None,
        typer.Option("--changed", metavar="OTHER", help="What another run judges otherwise; both chains."),
    ] = None,
    beside: Annotated[
        str | None, typer.Option("--beside", metavar="OTHER", help="The same problem in another run too.")
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="Every step of a long chain.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="[FILE.html]",
            help="Write one self-contained page; --html=FOLDER names it itself.",
        ),
    ] = None,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """One problem's chain: each latent step with its top tokens and entropy, the text, the verdict. Without
    a choice: the first problem.

    Example: latentctl case @last --worst --html
    """
    from latentctl.report import case as cases
    from latentctl.report.case_files import find

    if changed is not None and beside is not None:
        raise UserError("--changed shows the other run beside already", hint="leave out --beside")
    if worst and (id is not None or changed is not None):
        raise UserError("--worst chooses the problem itself", hint="leave out --id and --changed")
    root = output.runs_dir(runs_dir)
    here = find(root, run)
    other = changed if changed is not None else beside
    there = None if other is None else find(root, other, like=here.stage)
    rows = cases.with_index(here, index)
    found: list[Changed] | None = None
    judged = 0
    if changed is not None and there is not None:
        found, judged = cases.changed(here, there, rows)
    if id is not None:
        choice = cases.by_id(rows, id)
    elif worst:
        choice = cases.worst(here, rows)
    elif found is not None:
        choice = cases.Choice(found[0].key, "the first verdict that differs") if found else None
    else:
        choice = cases.default(here, rows)
    shown = _shown(choice, here, there)
    notes = [*here.notes, *(there.notes if there else []), *_differences(shown, there, choice)]
    page = _write_page(html, shown, choice, found, notes) if html is not None and shown and choice else None
    if as_json:
        data = {
            "chosen": choice.words if choice else None,
            "case": shown[0].dump() if shown else None,
            "other": shown[1].dump() if len(shown) > 1 else None,
            "changed": None if found is None else [_changed_dump(c) for c in found],
            "judged": judged if found is not None else None,
            "page": str(page) if page else None,
            "notes": notes,
        }
        output.print_json("case", data)
        return
    for note in notes:
        output.note(f"note: {note}")
    if page is not None:
        print(page)
        return
    _print(shown, choice, found, judged, (here, there), whole=whole)


def _shown(choice: Choice | None, here: Evaluation, there: Evaluation | None) -> list[Case]:
    from latentctl.report.case import case_of

    if choice is None:
        return []
    both = [case_of(at, choice.key) for at in (here, there) if at is not None]
    return [c for c in both if c is not None]


def _differences(shown: list[Case], there: Evaluation | None, choice: Choice | None) -> list[str]:
    """What a reader of two chains must know before comparing them."""
    if there is None or choice is None:
        return []
    if len(shown) < 2:
        return [f"{there.name} has no sample {choice.key[1]} of {choice.key[0]}: shown alone"]
    a, b = (c.row for c in shown)
    unlike = [name for name in ("question", "gold") if a.get(name) != b.get(name)]
    return [f"the two runs have different {' and '.join(unlike)} under this id"] if unlike else []


def _changed_dump(item: Changed) -> dict[str, Any]:
    def judged(row: dict[str, Any]) -> dict[str, Any]:
        return {k: row.get(k) for k in ("verdict", "extracted", "reason")}

    id, index = item.key
    return {"id": id, "index": index, "before": judged(item.before), "after": judged(item.after)}


def _write_page(
    html: Path, shown: list[Case], choice: Choice, found: list[Changed] | None, notes: list[str]
) -> Path:
    from latentctl.report.case_page import page

    path = html.expanduser().absolute()
    if path.is_dir():
        words = "-".join(["case", *(c.evaluation.run.id for c in shown), shown[0].row["id"]])
        path = path / (re.sub(r"[^0-9A-Za-z._-]+", "-", words)[:120] + ".html")
    if not path.parent.is_dir():
        raise UserError("no such folder", where=str(path.parent))
    path.write_bytes(page(shown, choice.words, found or [], notes))
    return path


def _print(
    shown: list[Case],
    choice: Choice | None,
    found: list[Changed] | None,
    judged: int,
    pair: tuple[Evaluation, Evaluation | None],
    *,
    whole: bool,
) -> None:
    from latentctl.report.case_text import print_case, print_changed

    console = output.console()
    here, there = pair
    if found is not None and there is not None:
        print_changed(console, found, judged, (here.name, there.name))
    if choice is None:
        return
    print_case(console, shown, choice.words, whole=whole)
    row = shown[0].row
    this = f"latentctl case {here.name} --id {shlex.quote(row['id'])}"
    this += f" --index {row['index']}" if shown[0].samples > 1 else ""
    beside = f" --beside {there.name}" if there else ""
    commands = [(f"{this}{beside} --html", "the same as a page")]
    if not there and row.get("verdict") != "wrong":
        commands.append((f"latentctl case {here.name} --worst", "a wrong answer"))
    commands += [
        (f"latentctl case {here.run.id}/{other}", "another evaluation") for other in here.others[-3:]
    ]
    output.next_commands(commands)
