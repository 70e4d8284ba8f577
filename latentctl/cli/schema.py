"""`latentctl schema`: JSON Schema of recipes and cluster profiles."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from latentctl.cli import output

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Kind(StrEnum):
    """What has a schema."""

    RECIPE = "recipe"
    CLUSTER = "cluster"


@app.command()
def schema(
    kind: Annotated[Kind, typer.Argument(help="Schema of what.", metavar="recipe|cluster")] = Kind.RECIPE,
    as_json: output.Json = False,
) -> None:
    """Print the JSON Schema of recipes or of cluster profiles, for editors and other checkers.

    Save it beside your recipes and put this on a recipe's first line:

      # yaml-language-server: $schema=recipe.schema.json
    """
    from latentctl.spec.json_schema import cluster_schema, recipe_schema

    body = recipe_schema() if kind is Kind.RECIPE else cluster_schema()
    if as_json:
        output.print_json("schema", body)
    else:
        print(json.dumps(body, indent=2, ensure_ascii=False))
