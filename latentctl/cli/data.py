"""`latentctl data`: what a model would see of a dataset, and whether anything is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentctl.cli import output
from latentctl.errors import Exit, UserError

if TYPE_CHECKING:
    from latentctl.spec.experiment import Experiment

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def data(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME|FILE|RECIPE", help="A dataset, a data file, or a recipe (.yaml)."),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the datasets and generators.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Judge only: exit code 0, or 1 with findings.")
    ] = False,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Show so many rows of each dataset.")] = 3,
    path: Annotated[str | None, typer.Option("--path", help="Where the dataset NAME lies.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="train, valid or test. [default: train]")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Count in this model's tokens; characters if unsaid.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Like --set of submit: dataset.limit=5, prompt.form=xml."
        ),
    ] = None,
    cluster: Annotated[str, typer.Option("--cluster", help="Whose data_dir and Python are used.")] = "local",
    as_json: output.Json = False,
) -> None:
    """What a model would see: rows as rendered, where the loss falls, counts, lengths, bad rows, leakage."""
    from latentctl.launch.task import run_task
    from latentctl.spec.load import load_profile

    profile = load_profile(cluster)
    python = profile.interpreter.train
    if show_list:
        _list(run_task("data", {"list": True}, python=python), as_json=as_json)
        return
    if name is None:
        raise UserError("name a dataset, a file or a recipe", hint="latentctl data --list shows the datasets")
    recipe = _is_recipe(name)
    if recipe and (path or split or model):
        raise UserError("--path, --split and --model go with a dataset, not with a recipe", hint="use --set")
    given = overrides or []
    experiment = _recipe(name, given) if recipe else _made_up(name, path, split, model, given)
    payload = {
        "recipe": experiment.dump(),
        "data_dir": profile.data_dir,
        "rows": 0 if check else rows,
        "tokens": not check and (recipe or model is not None),
    }
    found = run_task("data", payload, python=python)
    if not check and not recipe and found["sets"][0]["error"]:
        problem = found["sets"][0]["error"]
        raise UserError(problem["message"], hint=problem["hint"], where=problem["where"])
    if as_json:
        output.print_json("data", found)
    else:
        from latentctl.cli.data_view import show

        show(found, check=check, stages=recipe)
    if not found["ok"] and (check or any(s["error"] for s in found["sets"])):
        raise typer.Exit(Exit.NEGATIVE)


def _is_recipe(name: str) -> bool:
    return name.lower().endswith((".yaml", ".yml"))


def _recipe(name: str, overrides: list[str]) -> Experiment:
    from latentctl.spec.load import load_recipe

    return load_recipe(Path(name), overrides).points[0].experiment


def _made_up(
    name: str, path: str | None, split: str | None, model: str | None, overrides: list[str]
) -> Experiment:
    """A recipe for one dataset, so that --set, defaults and errors are those of recipes."""
    from latentctl.spec.load import load_mapping

    is_path = Path(name).expanduser().exists() or "/" in name
    dataset: dict[str, Any] = {"path": name} if is_path else {"name": name}
    if path is not None:
        if is_path:
            raise UserError("--path goes with a dataset's name", hint=f"{name} is a path itself")
        dataset["path"] = path
    if split is not None:
        dataset["split"] = split
    mapping = {"name": "data", "method": "sft", "model": model or {"init": {}}, "dataset": dataset}
    return load_mapping(mapping, overrides, "the command line").points[0].experiment


def _list(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.print_json("datasets", found["datasets"])
        return
    from latentctl.cli.data_view import show_list

    show_list(found["datasets"])
