"""`latentctl prefetch`: models and data sets of a recipe into the cache of its jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentctl.cli import launching, output
from latentctl.cli.launching import Cluster, Set
from latentctl.errors import Exit

if TYPE_CHECKING:
    from latentctl.spec.load import LoadedRecipe

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def prefetch(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    set_: Set = None,
    cluster: Cluster = "local",
    as_json: output.Json = False,
) -> None:
    """Fetch what a recipe needs of the Hugging Face Hub, for compute nodes that have no network.

    Run it on a login node. It fills the cache where jobs of the cluster profile look; what was broken off
    goes on where it was. Exit code 1 if anything could not be fetched.

    Example: latentctl prefetch qwen3-aime.yaml --cluster mycluster
    """
    from latentctl.launch.cache_places import as_jobs_see_it, unseen
    from latentctl.launch.profile import profile_named
    from latentctl.launch.task import run_task
    from latentctl.plan.resources import interpreter
    from latentctl.spec.load import load_recipe

    profile = profile_named(cluster)
    loaded = load_recipe(recipe, launching.overrides(set_, None))
    for name in unseen(profile):
        output.note(f"warning: {name} is set here, and jobs do not see it: env in the cluster profile")
    env = {
        k: v
        for k, v in as_jobs_see_it(profile).items()
        if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    }
    found: dict[tuple[str, str], dict[str, Any]] = {}
    cache = ""
    for experiment in _distinct(loaded):
        answer = run_task(
            "prefetch",
            {"recipe": experiment, "data_dir": profile.data_dir},
            python=interpreter(profile, "train") if profile.container is None else None,
            env=env,
        )
        cache = answer["cache"]
        found |= {(item["kind"], item["name"]): item for item in answer["items"]}
    items = list(found.values())
    if as_json:
        output.print_json("prefetch", {"cluster": profile.name, "cache": cache, "items": items})
    else:
        _show(items, cache, recipe, profile.name)
    if any(item["error"] for item in items):
        raise typer.Exit(Exit.NEGATIVE)


def _distinct(loaded: LoadedRecipe) -> list[dict[str, Any]]:
    """The points that differ in what they read: models, tokenizers, data sets."""
    found: dict[str, dict[str, Any]] = {}
    for point in loaded.points:
        dump = point.experiment.dump()
        read = [[s.get(k) for k in ("from", "model", "dataset", "validation")] for s in dump["stages"]]
        found.setdefault(repr(read), dump)
    return list(found.values())


def _show(items: list[dict[str, Any]], cache: str, recipe: Path, cluster: str) -> None:
    from latentctl.record.sizes import size_text

    if not items:
        output.note(f"{recipe} needs nothing of the Hub: models and data lie here, or are made")
        return
    for item in items:
        if item["error"]:
            print(f"failed   {item['kind']} {item['name']}: {item['error']['message']}")
            if item["error"]["hint"]:
                print(f"         hint: {item['error']['hint']}")
        else:
            print(
                f"there    {item['kind']} {item['name']}"
                + (f", {size_text(item['bytes'])}" if item["bytes"] else "")
            )
    output.note(f"cache: {cache}")
    if not any(item["error"] for item in items):
        output.next_commands(
            [
                (f"latentctl check {recipe} --cluster {cluster}", "does the rest fit"),
                ("env: {HF_HUB_OFFLINE: '1'}", "in the profile: nodes do not even try the network"),
            ]
        )
