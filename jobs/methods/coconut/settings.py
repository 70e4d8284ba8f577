"""What one curriculum stage trains with, settled from the recipe and the checkpoint it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.data.curriculum import Curriculum
from jobs.methods.protocol import StageContext
from jobs.models.latent_file import read_latent
from jobs.runtime.errors import JobUserError
from latentctl.spec.latent import (
    NAMED_MARKERS,
    ContextualInput,
    HiddenInput,
    LatentInput,
    LatentSpec,
    StopSpec,
)
from latentctl.spec.methods import CoconutSettings
from latentctl.spec.prompt import Markers


@dataclass(frozen=True)
class Settled:
    """Raises nothing; `settle` does."""

    curriculum: Curriculum
    input: LatentInput
    markers: Markers | None
    """None: no latent steps and no markers."""
    start_learned: bool
    stop: StopSpec | None
    """When a span ends in evaluation."""
    learned: list[float] | None
    """Where learned window weights begin: those of the checkpoint that this stage starts from."""

    @property
    def settings(self) -> CoconutSettings:
        return self.curriculum.settings

    def latent_json(self, weights: list[float] | None) -> dict[str, Any]:
        """The latent part of `latent.json`; `weights`: the learned window weights as they are now."""
        settings, stage = self.settings, self.curriculum.stage
        facts: dict[str, Any] = {
            "variant": settings.variant,
            "stage": stage,
            "max_stage": settings.max_stage,
            "latents_per_step": settings.latents_per_step,
            "count": settings.count,
        }
        if self.markers is None or self.stop is None:
            return {"input": None, "coconut": facts}
        input = self.input
        if weights is not None and isinstance(input, ContextualInput):
            input = input.model_copy(update={"weights": weights})
        return {
            "input": input.model_dump(mode="json"),
            "markers": self.markers.model_dump(mode="json"),
            "start": "model" if self.start_learned else "prompt",
            "stop": self.stop.model_dump(mode="json", exclude_none=True),
            "coconut": facts,
        }


def settle(ctx: StageContext) -> Settled:
    """Raises JobUserError for what a latent training cannot do."""
    stage = ctx.stage
    settings = stage.settings
    assert isinstance(settings, CoconutSettings)
    curriculum = Curriculum(settings)
    if not curriculum.latent:
        return Settled(curriculum, HiddenInput(), None, False, None, None)
    said = stage.latent or LatentSpec()
    where = f"{stage.name}.latent"
    input = said.input or HiddenInput()
    if input.kind == "none":
        raise JobUserError(
            "input: none takes no latent steps: there is nothing to train",
            hint="coconut.variant: cot, no_cot or no_thoughts are the trainings without",
            where=f"{where}.input",
        )
    if said.noise is not None:
        raise JobUserError(
            "noise falls on latent steps in evaluation, not in training",
            hint="say it in the latent block of an eval stage",
            where=f"{where}.noise",
        )
    stop = said.stop or curriculum.evaluate()
    if stop is None:
        raise JobUserError(
            "count: difficulty says how many latent steps a training problem gets, "
            "but nothing says when a span ends in evaluation",
            hint="add coconut.dynamic: true, so that the model decides, or latent.stop, such as stop: 6",
            where=f"{where}.stop",
        )
    _check_checkpointing(ctx, input)
    return Settled(
        curriculum,
        input,
        said.markers or NAMED_MARKERS["coconut"],
        said.start == "model",
        stop,
        _learned(ctx.source, input),
    )


def _check_checkpointing(ctx: StageContext, input: LatentInput) -> None:
    if ctx.stage.train.gradient_checkpointing and input.kind != "pause":
        raise JobUserError(
            "gradient checkpointing drops the key-value cache through which latent steps see the question",
            hint="set train.gradient_checkpointing to false; lower train.micro_batch to save memory",
            where=f"{ctx.stage.name}.train.gradient_checkpointing",
        )


def _learned(source: Path | str | None, input: LatentInput) -> list[float] | None:
    """The window weights that the checkpoint `source` learned, where this stage goes on learning them."""
    if not isinstance(source, Path) or not isinstance(input, ContextualInput) or input.weights != "learned":
        return None
    held = (read_latent(source) or {}).get("input") or {}
    weights = held.get("weights") if held.get("kind") == "contextual" else None
    return weights if isinstance(weights, list) and len(weights) == input.window else None
