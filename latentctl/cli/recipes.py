"""`latentctl recipes`: what ships with latentctl."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from latentctl import shipped
from latentctl.cli import output
from latentctl.errors import Exit, UserError

app = typer.Typer(
    help="List the shipped recipes; copy one to change it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def _recipes() -> dict[str, Path]:
    return {p.stem: p for p in sorted(shipped.folder("recipes").glob("*.yaml"))}


def summary(path: Path) -> str:
    """The first sentence of the comment that opens a recipe."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# yaml-language-server"):
            words.append(line.lstrip("# ").strip())
    found = re.match(r".*?[.?!](?= |$)", " ".join(words))
    return found[0] if found else " ".join(words)


@app.command("list")
def list_(as_json: output.Json = False) -> None:
    """Name and purpose of every shipped recipe."""
    found = {name: (path, summary(path)) for name, path in _recipes().items()}
    if as_json:
        rows = [{"name": name, "summary": text, "path": str(path)} for name, (path, text) in found.items()]
        output.print_json("recipes", rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("recipe", style="bold", no_wrap=True)
    table.add_column("what it does")
    for name, (_, text) in found.items():
        table.add_row(name, text)
    output.console().print(table)
    output.next_commands([("latentctl recipes copy NAME", "copy one to here and change it")])


def _target(name: str, dest: str) -> Path:
    """The file to write: in a folder (one that exists, or a text that ends in a slash), or as it is said."""
    folder = dest.endswith("/") or Path(dest).is_dir()
    target = Path(dest) / f"{name}.yaml" if folder else Path(dest)
    if not target.parent.is_dir():
        raise UserError("no such directory", where=str(target.parent))
    return target


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="A shipped recipe.")],
    dest: Annotated[str, typer.Argument(help="A folder, or the new file.")] = ".",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: output.Json = False,
) -> None:
    """Copy a shipped recipe, as NAME.yaml unless DEST names a file."""
    known = _recipes()
    name = name.removesuffix(".yaml")
    if name not in known:
        from latentctl.spec.catalog import listed, nearest

        near = nearest(name, known)
        hint = f"did you mean {near}?" if near else f"known: {listed(known)}"
        raise UserError(f"no shipped recipe {name!r}", hint=hint, code=Exit.NOT_FOUND, kind="not_found")
    target = _target(name, dest)
    try:
        with target.open("wb" if force else "xb") as out, known[name].open("rb") as source:
            shutil.copyfileobj(source, out)
    except FileExistsError:
        raise UserError(
            "exists already", where=str(target), hint="--force replaces it", kind="exists"
        ) from None
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(target)) from None
    if as_json:
        output.print_json("recipe_copied", {"name": name, "path": str(target)})
        return
    print(target)
    output.next_commands(
        [(f"latentctl check {target}", "find mistakes"), (f"latentctl submit {target} --wait", "run it")]
    )
