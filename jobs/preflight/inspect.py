"""Verb `preflight`: everything of a recipe that can be tried without training: weights, tokenizer, rows,
sizes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from jobs.data import load
from jobs.data.measure import measure
from jobs.data.render import Renderer, Target
from jobs.data.stage_tokenizer import Tokenizers, origins, target_of
from jobs.models.markers import add_tokens
from jobs.models.source import check_weights
from jobs.preflight.cached import cached, offline
from jobs.preflight.fit import fit, sizes
from jobs.preflight.roundtrip import round_trip
from jobs.preflight.shape import config, shape, weights_of
from jobs.runtime.errors import JobUserError
from latentctl.record.findings import Finding, Level
from latentctl.spec.dataset import DatasetSpec
from latentctl.spec.experiment import Experiment
from latentctl.spec.latent import NAMED_MARKERS
from latentctl.spec.prompt import Markers, PromptSpec
from latentctl.spec.stage import StageBase

_ROWS = 200
"""So many rows are put to the tokenizer and back."""


@dataclass
class Inspection:
    """What was found, stage by stage."""

    experiment: Experiment
    data_dir: str | None
    gpu_bytes: int | None
    """Memory of one GPU, where it is known."""
    findings: list[Finding] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    disk: int = 0
    """Bytes of all checkpoints and models that the recipe leaves, at most."""
    seen: dict[Hashable, int | None] = field(default_factory=dict)
    """What was looked at already -> of rows the longest, in tokens."""

    def say(self, level: Level, where: str, message: str, hint: str | None = None) -> None:
        """The same of several stages is said once."""
        if (level, message) not in {(f.level, f.message) for f in self.findings}:
            self.findings.append(Finding(level, where, message, hint))

    def wrong(self, where: str, error: JobUserError) -> None:
        self.say("error", error.where or where, error.message, error.hint)


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """{"recipes": [Experiment dump], "data_dir", "gpu_mb": int | None, "here": bool}.

    `here`: the jobs run on this machine, whose GPUs count where `gpu_mb` is None. Gives {"points": [...]}, of
    each recipe {"findings": [Finding as a mapping], "stages": [{stage, memory, checkpoint, ...}], "disk":
    bytes}.
    """
    gpu_mb = payload.get("gpu_mb") or (_gpu_mb() if payload.get("here") else None)
    points = []
    for recipe in payload["recipes"]:
        found = inspect(
            Experiment.model_validate(recipe),
            data_dir=payload.get("data_dir"),
            gpu_bytes=gpu_mb * 2**20 if gpu_mb else None,
        )
        findings = [asdict(f) for f in found.findings]
        points.append({"findings": findings, "stages": found.stages, "disk": found.disk})
    return {"points": points}


def inspect(experiment: Experiment, *, data_dir: str | None, gpu_bytes: int | None) -> Inspection:
    """Never raises for what is wrong with the recipe's models or data: that is what it finds."""
    found = Inspection(experiment, data_dir, gpu_bytes)
    tokenizers = Tokenizers(experiment, data_dir)
    seen: set[str] = set()
    for stage in experiment.stages:
        first = list(origins(experiment, stage))[-1]
        if first.name not in seen:
            seen.add(first.name)
            _weights(found, first)
        _stage(found, stage, first, tokenizers)
    return found


def _weights(found: Inspection, first: StageBase) -> None:
    """Where the weights of a chain of stages come from."""
    source = weights_of(first)
    where = f"stages.{first.name}.{'model' if source == first.model.path else 'from'}"
    if source is None or first.from_ not in (None, "model", source):
        return  # a random model, or another run's weights, which its jobs look up
    if Path(source).expanduser().is_dir():
        try:
            check_weights(Path(source).expanduser())
            found.say("ok", where, f"{source}: weights are there")
        except JobUserError as error:
            found.wrong(where, error)
    elif source.startswith(("/", ".", "~")) or source.count("/") > 1:
        found.say("error", where, f"no such model directory: {source}")
    elif (place := cached(source, first.model.revision)) is not None:
        found.say("ok", where, f"{source}: in the cache, {place}")
    elif offline():
        why = f"{source} is not in the cache, and HF_HUB_OFFLINE keeps jobs from the Hub"
        found.say("error", where, why, "latentctl prefetch RECIPE")
    else:
        why = f"{source} is not in the cache: the first job downloads it, on nodes that may have no network"
        found.say("warning", where, why, "latentctl prefetch RECIPE")


def _stage(found: Inspection, stage: StageBase, first: StageBase, tokenizers: Tokenizers) -> None:
    where = f"stages.{stage.name}"
    tokenizer, why = tokenizers.of(stage)
    if tokenizer is None and first.from_ in (None, "model"):
        found.say("error", where, why or "there is no tokenizer")
    longest = _rows(found, stage, tokenizer) if stage.settings.reads_dataset else None
    if tokenizer is None:
        return
    try:
        _markers(found, stage, tokenizer)
        lora = stage.train.lora if stage.settings.trains else None
        read = config(first, len(tokenizer))
        dimensions = shape(read, lora=lora, trust_remote_code=first.model.trust_remote_code)
    except JobUserError as error:
        found.wrong(where, error)
        return
    if longest is not None and dimensions.longest is not None and longest > dimensions.longest:
        found.say(
            "warning",
            f"{where}.dataset",
            f"the longest row has {longest} tokens, the model knows positions up to {dimensions.longest}",
            "train.max_len and train.overlong, or another model",
        )
    row = sizes(stage, dimensions, longest)
    found.stages.append(row)
    found.disk += row.get("disk", 0)
    if stage.resources.gpus and row["memory"]:
        level, message, hint = fit(stage, row["memory"], found.gpu_bytes)
        found.say(level, where, message, hint)


def _rows(found: Inspection, stage: StageBase, tokenizer: Any) -> int | None:
    """The dataset's rows, to tokens and back; what several stages share once. Returns the longest, in
    tokens."""
    prompts = (s.prompt for s in origins(found.experiment, stage) if s.prompt is not None)
    trainer = next((s for s in origins(found.experiment, stage) if s.settings.trains), stage)
    how = (next(prompts, PromptSpec()), *target_of(trainer))
    longest: list[int | None] = []
    for key, spec in (("dataset", stage.dataset), ("validation", stage.validation)):
        if spec is None:
            continue
        known = (spec.model_dump_json(), how[0].model_dump_json(), how[1:], id(tokenizer))
        if known not in found.seen:
            where = f"stages.{stage.name}.{key}"
            try:
                found.seen[known] = _dataset(found, where, spec, tokenizer, how)
            except JobUserError as error:
                found.seen[known] = None
                found.wrong(where, error)
        longest.append(found.seen[known])
    return max((n for n in longest if n is not None), default=None)


def _dataset(
    found: Inspection, where: str, spec: DatasetSpec, tokenizer: Any, how: tuple[PromptSpec, Target, str]
) -> int | None:
    """Raises JobUserError where it cannot be read or rendered."""
    loaded = load(spec, data_dir=found.data_dir, plugins=found.experiment.plugins)
    found.say("ok", where, f"{loaded.name}, {loaded.split}: {len(loaded.examples)} rows")
    if tokenizer is None:
        return None
    prompt, target, steps = how
    renderer = Renderer(tokenizer, prompt, loaded.instruction)
    for level, message, hint in round_trip(renderer, loaded.examples[:_ROWS], target, steps):
        found.say(level, where, message, hint)
    return int(measure(renderer, loaded.examples, target, steps)["total"]["max"])


def _markers(found: Inspection, stage: StageBase, tokenizer: Any) -> None:
    """Raises JobUserError where the tokenizer cannot write the markers of latent spans."""
    latent = stage.latent
    if latent is None or (latent.input is not None and latent.input.kind == "none"):
        return
    markers = _said_markers(found.experiment, stage)
    before = len(tokenizer)
    ids = add_tokens(tokenizer, [markers.start, markers.end])
    new = len(tokenizer) - before
    known = (id(tokenizer), markers.start, markers.end)
    if known not in found.seen:
        found.seen[known] = None
        said = ", ".join(f"{text} is {len(i)} token{'s' * (len(i) > 1)}" for text, i in ids.items())
        more = f"; {new} of them new, with rows of their own in the embeddings" if new else ""
        found.say("ok", f"stages.{stage.name}.latent.markers", said + more)


def _said_markers(experiment: Experiment, stage: StageBase) -> Markers:
    """The stage's own, else those of the stages that its weights come through, else the prompt's."""
    chain = list(origins(experiment, stage))
    for one in chain:
        if one.latent is not None and one.latent.markers is not None:
            return one.latent.markers
        if one.method == "coconut":
            return NAMED_MARKERS["coconut"]
    return next((s.prompt for s in chain if s.prompt is not None), PromptSpec()).markers


def _gpu_mb() -> int | None:
    """Of this machine's smallest GPU; None where it has none."""
    if not torch.cuda.is_available():
        return None
    cards = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return min(card.total_memory for card in cards) // 2**20
