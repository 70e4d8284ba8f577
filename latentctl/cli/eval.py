"""`latentctl eval`: a recipe of one stage, made from options, and submitted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from latentctl.cli import launching, output
from latentctl.cli.launching import Cluster, DryRun, Name, Rerun, Set, Wait
from latentctl.errors import UserError
from latentctl.runs import checkpoint as checkpoints

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def eval(
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint", metavar="PATH|RUN", help="A directory, or RUN[/STAGE][@best].", show_default=False
        ),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset", metavar="NAME", help="Name or file (latentctl data --list).", show_default=False
        ),
    ],
    split: Annotated[
        str | None, typer.Option("--split", help="train, valid or test; test if unsaid.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many problems.")] = None,
    latents: Annotated[
        int | None,
        typer.Option(
            "--latents", min=0, metavar="N", help="Exactly so many latent steps. [default: the checkpoint's]"
        ),
    ] = None,
    set_: Set = None,
    cluster: Cluster = "local",
    name: Name = None,
    dry_run: DryRun = False,
    wait: Wait = True,
    rerun: Rerun = False,
    runs_dir: output.RunsDir = None,
    as_json: output.Json = False,
) -> None:
    """Evaluate a checkpoint or a run on a dataset. It is a run like any other.

    Prompt and latent settings are those that the checkpoint carries, unless --latents or --set say otherwise:
    --set latent.stop.max_len=800, or --set latent.input=none to decode it as text.

    Example: latentctl eval --checkpoint @last/sft@best --dataset gsm8k --limit 100
    """
    from latentctl.spec.load import load_mapping

    root = output.runs_dir(runs_dir)
    from latentctl.launch.profile import profile_named

    profile = profile_named(cluster)
    source = checkpoints.resolve(checkpoint, root)
    data = recipe(source, root, dataset=dataset, split=split, limit=limit, latents=latents)
    loaded = load_mapping(data, launching.overrides(set_, name), "latentctl eval")
    if len(loaded.points) != 1:
        raise UserError("eval is one evaluation; for several: latentctl sweep")
    if dry_run:
        from latentctl.cli.dry_run import show

        show(loaded, profile, root, as_json=as_json)
    else:
        launching.launch(loaded, profile, root, rerun=rerun, wait=wait, as_json=as_json)


def recipe(
    source: str, runs_dir: Path, *, dataset: str, split: str | None, limit: int | None, latents: int | None
) -> dict[str, Any]:
    """The recipe that stands for the options. Prompt and latent settings are what the checkpoint carries."""
    from latentctl.spec.dataset import is_path

    problems = {"path" if is_path(dataset) else "name": dataset, "split": split, "limit": limit}
    data: dict[str, Any] = {
        "name": _name(source, dataset),
        "method": "eval",
        "dataset": {k: v for k, v in problems.items() if v is not None},
    }
    if latents is not None:
        data["latent"] = {"stop": latents}
    return data | weights(source, runs_dir)


def weights(source: str, runs_dir: Path) -> dict[str, Any]:
    """`model` and `from` of a stage that starts from `source`, as `runs.checkpoint.resolve` gives it."""
    if not source.startswith("run:"):
        return {"model": {"path": source}, "from": "model"}
    run_id, _, stage = source.removeprefix("run:").partition("@")[0].partition("/")
    return {"model": _without_nulls(checkpoints.model_of(run_id, stage, runs_dir) or {}), "from": source}


def _name(source: str, dataset: str) -> str:
    base = source.removeprefix("run:").replace("/", "-") if source.startswith("run:") else Path(source).name
    words = re.sub(r"[^a-z0-9._-]+", "-", f"eval-{base}-{Path(dataset).stem}".lower())
    return words[:60].strip("-._")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value
