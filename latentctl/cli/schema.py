"""`latentctl schema`: JSON Schema of recipes, of cluster profiles, and of what `--json` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from latentctl.cli import output
from latentctl.errors import UserError

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_ANSWERS = Path(__file__).with_name("json")
"""One file for each kind of answer: see its README.md."""


def answers() -> list[str]:
    """The kinds of `--json` answers, and `envelope`, which is around all of them."""
    return sorted(path.stem for path in _ANSWERS.glob("*.json"))


@app.command()
def schema(
    of: Annotated[
        str,
        typer.Argument(
            help="A recipe, a cluster profile, or what --json prints: its kind, or envelope.",
            metavar="recipe|cluster|KIND",
            autocompletion=lambda: ["recipe", "cluster", *answers()],
        ),
    ] = "recipe",
    as_json: output.Json = False,
) -> None:
    """Print a JSON Schema, for editors and other checkers.

    Save that of recipes beside yours and put this on a recipe's first line:

      # yaml-language-server: $schema=recipe.schema.json
    """
    body = _body(of)
    if as_json:
        output.print_json("schema", body)
    else:
        print(json.dumps(body, indent=2, ensure_ascii=False))


def _body(of: str) -> dict[str, Any]:
    from latentctl.spec.json_schema import cluster_schema, recipe_schema

    if of == "recipe":
        return recipe_schema()
    if of == "cluster":
        return cluster_schema()
    if of not in answers():
        raise UserError(
            f"there is no schema of {of!r}",
            hint=f"recipe, cluster, or a kind of answer: {', '.join(answers())}",
            kind="usage",
        )
    return json.loads((_ANSWERS / f"{of}.json").read_text(encoding="utf-8"))
