"""`latentctl check`: every error of a recipe, with file, line and column; and whether a cluster can run
it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentctl.cli import complete, output
from latentctl.errors import Exit, Problem, UserError

if TYPE_CHECKING:
    from latentctl.spec.load import LoadedRecipe
    from latentctl.spec.resolve import Point

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def check(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes.", metavar="RECIPE")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE over the recipe; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the resolved spec, and where each value is from.")
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Also hold one recipe against this cluster: limits, account, paths, models, sizes.",
            autocompletion=complete.clusters,
            show_default=False,
        ),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="With --cluster: a short job looks from a compute node, too.")
    ] = False,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Check recipes: every error at once, with file, line, column and what is allowed.

    Plugins that a recipe names are imported. Exit code 2 if anything is wrong. With --cluster one recipe is
    held against the live cluster: partition, account, qos and limits, paths and free space, weights,
    tokenizer and chat template, rows, GPU memory; of a sweep every kind of its points. Exit code 1 if it
    would not run, 4 if Slurm does not answer or refuses.

    Example: latentctl check qwen3-aime.yaml --cluster mycluster --deep
    """
    if cluster is None and deep:
        raise UserError("--deep goes with --cluster NAME: whose compute node is to look")
    if cluster is not None and len(recipes) > 1:
        raise UserError(f"--cluster takes one recipe, not {len(recipes)}")
    from latentctl.spec.load import load_recipe

    loaded: dict[Path, LoadedRecipe] = {}
    problems: list[Problem] = []
    codes: set[Exit] = set()
    for path in recipes:
        try:
            loaded[path] = load_recipe(path, sets or [])
        except UserError as error:
            problems += error.problems
            codes.add(error.code)
    if problems:
        code = Exit.NOT_FOUND if codes == {Exit.NOT_FOUND} else Exit.USAGE
        kind = "not_found" if code is Exit.NOT_FOUND else "invalid_recipe"
        if not as_json:
            for path, recipe in loaded.items():
                output.note(f"{path}: ok ({_stages(recipe)})")
        raise UserError(problems=problems, code=code, kind=kind)
    if cluster is not None:
        from latentctl.cli import preflight
        from latentctl.launch.profile import profile_named

        ((path, recipe),) = loaded.items()
        preflight.run(
            recipe, path, profile_named(cluster), output.runs_dir(runs_dir), deep=deep, as_json=as_json
        )
        return
    if as_json:
        output.print_json("check", [_as_json(path, recipe, show=show) for path, recipe in loaded.items()])
        return
    for path, recipe in loaded.items():
        print(f"{path}: ok ({_stages(recipe)})")
        if show:
            _show(recipe)
    if len(loaded) == 1:
        path = next(iter(loaded))
        output.next_commands(
            [
                (f"latentctl check {path} --cluster NAME", "would it run there"),
                (f"latentctl submit {path} --dry-run", "see the plan"),
                (f"latentctl submit {path}", "run it"),
            ]
        )


def _show(recipe: LoadedRecipe) -> None:
    """The first point whole, and what each of the others varies."""
    import json

    print("\n".join(rendered(recipe.points[0])))
    if len(recipe.points) > 1:
        print("points:")
    for number, point in enumerate(recipe.points if len(recipe.points) > 1 else [], start=1):
        varies = " ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in point.varies.items())
        print(f"  {number}: {varies}")


def _stages(recipe: LoadedRecipe) -> str:
    names = [s.name for s in recipe.points[0].experiment.stages]
    points = f", {len(recipe.points)} points" if len(recipe.points) > 1 else ""
    return f"{'stages' if len(names) > 1 else 'stage'} {', '.join(names)}{points}"


def _as_json(path: Path, recipe: LoadedRecipe, *, show: bool) -> dict[str, Any]:
    first = recipe.points[0]
    body: dict[str, Any] = {"recipe": str(path), "name": first.experiment.name, "points": len(recipe.points)}
    body["stages"] = [{"name": s.name, "method": s.method, "from": s.from_} for s in first.experiment.stages]
    if show:
        body["experiments"] = [
            {"experiment": p.experiment.dump(), "provenance": p.provenance, "varies": p.varies}
            for p in recipe.points
        ]
    return body


def _scalar(value: Any) -> str:
    import json

    return (
        value
        if isinstance(value, str) and value and value == value.strip()
        else json.dumps(value, ensure_ascii=False)
    )


def rendered(point: Point, width: int = 80) -> list[str]:
    """The resolved spec, one value a line, with the origin of each at the right; defaults say nothing."""
    lines: list[str] = []

    def put(text: str, origin: str) -> None:
        origin = "" if origin == "default" else origin
        room = width - len(origin) - 1
        if not origin:
            lines.append(text)
        elif len(text) < room:
            lines.append(f"{text:<{room}} {origin}")
        else:
            lines.extend([text, f"{origin:>{width}}"])

    def walk(value: Any, path: tuple[str, ...], key: str, depth: int) -> None:
        pad = "  " * depth
        if isinstance(value, dict) and value:
            lines.append(f"{pad}{key}:")
            for child, below in value.items():
                walk(below, (*path, child), child, depth + 1)
        else:
            put(f"{pad}{key}: {_scalar(value)}", point.provenance.get(".".join(path), "default"))

    dump = point.experiment.dump()
    for key, value in dump.items():
        if key != "stages":
            walk(value, (key,), key, 0)
    for stage in dump["stages"]:
        walk(stage, ("stages", stage["name"]), f"stages.{stage['name']}", 0)
    return lines
