"""`latentctl calibrate`: a recipe of one stage, made from another recipe, and submitted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentctl.cli import launching, output
from latentctl.cli.launching import Cluster, DryRun, Name, Rerun, Set, Wait
from latentctl.errors import UserError

if TYPE_CHECKING:
    from latentctl.spec.experiment import Experiment
    from latentctl.spec.stage import StageBase

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_TAKEN = {"from_", "model", "dataset", "prompt", "latent", "sampling", "resources"}


@app.command()
def calibrate(
    recipe_: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)
    ],
    target_ratio: Annotated[
        float | None,
        typer.Option(
            "--target-ratio",
            metavar="SHARE",
            help="Find the threshold above which this share of steps lies. [default: the recipe's, or 0.05]",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many problems.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="PATH|RUN", help="Weights: a directory, or RUN[/STAGE][@best]."),
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
    """Measure the entropy of a model's latent steps: the share above each threshold, with intervals.

    Takes model, dataset, prompt, latent and sampling of the recipe's stage `calibrate`, else of its last
    evaluation, else of its last stage; --set changes what was taken. A recipe without latent steps is
    measured on the tokens of its reasoning. The run leaves calibration.json.

    Example: latentctl calibrate entropy-calibration.yaml --target-ratio 0.05 --limit 30
    """
    from latentctl.spec.load import load_mapping

    root = output.runs_dir(runs_dir)
    from latentctl.launch.profile import profile_named

    profile = profile_named(cluster)
    data = recipe(experiment(recipe_), root, target_ratio=target_ratio, limit=limit, checkpoint=checkpoint)
    loaded = load_mapping(data, launching.overrides(set_, name), "latentctl calibrate")
    if dry_run:
        from latentctl.cli.dry_run import show

        show(loaded, profile, root, as_json=as_json)
    else:
        launching.launch(loaded, profile, root, rerun=rerun, wait=wait, as_json=as_json)


def experiment(recipe: Path) -> Experiment:
    """The recipe's one experiment, with its first seed. Raises UserError where it stands for several."""
    from latentctl.spec.load import load_recipe

    points = load_recipe(recipe).points
    if any(set(point.varies) - {"seed"} for point in points):
        raise UserError(
            f"this recipe is a sweep of {len(points)} points; a calibration is of one model",
            hint="calibrate a recipe without sweep",
            where=str(recipe),
        )
    return points[0].experiment


def recipe(
    experiment: Experiment,
    runs_dir: Path,
    *,
    target_ratio: float | None,
    limit: int | None,
    checkpoint: str | None,
) -> dict[str, Any]:
    """The recipe of one calibration. Raises UserError where the weights are still to be trained."""
    stage = pick(experiment)
    data = stage.model_dump(mode="json", by_alias=True, exclude_unset=True, include=_TAKEN)
    data |= _weights(experiment, stage, checkpoint, runs_dir)
    data |= {"name": f"calibrate-{experiment.name}"[:60], "method": "calibrate", "seed": experiment.seed}
    data["plugins"] = list(experiment.plugins)
    if limit is not None:
        data["dataset"]["limit"] = limit
    said = stage.settings.model_dump(mode="json", exclude_unset=True, include=_settings(stage))
    ratio = target_ratio or said.get("target_ratio") or 0.05
    data["calibrate"] = {**said, "target_ratio": ratio}
    if stage.settings.trains and stage.prompt is None and data["from"] == "model":
        data["prompt"] = {}  # what an unsaid prompt means to a training
    return data


def _settings(stage: StageBase) -> set[str]:
    """Keys of the stage's own block that mean the same to a calibration: all of one, of others the engine."""
    from latentctl.spec.engine import EngineSpec

    if stage.method == "calibrate":
        return set(type(stage.settings).model_fields)
    return set(EngineSpec.model_fields) if isinstance(stage.settings, EngineSpec) else set()


def pick(experiment: Experiment) -> StageBase:
    """The stage whose settings are calibrated: the last one of the method `calibrate`, else `eval`, else the
    last that generates, else the last."""
    order = (
        lambda s: s.method == "calibrate",
        lambda s: s.method == "eval",
        lambda s: s.settings.generates,
        lambda s: True,
    )
    return next(s for wanted in order for s in reversed(experiment.stages) if wanted(s))


def _weights(
    experiment: Experiment, stage: StageBase, checkpoint: str | None, runs_dir: Path
) -> dict[str, Any]:
    """`model` and `from` where the stage's own will not do."""
    from latentctl.cli.eval import weights
    from latentctl.runs import checkpoint as checkpoints

    if checkpoint is not None:
        return weights(checkpoints.resolve(checkpoint, runs_dir), runs_dir)
    source = stage.from_ or "model"
    if source.partition("@")[0] in {s.name for s in experiment.stages}:
        raise UserError(
            f"stage {stage.name} starts from {source}, which this recipe is still to train",
            hint=f"submit the recipe first, then --checkpoint RUN/{source}",
        )
    return {}
