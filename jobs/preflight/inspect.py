"""Verb `preflight`: everything of a recipe that can be tried without training: weights, tokenizer, rows,
sizes."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from jobs.data import load
from jobs.data.measure import measure
from jobs.data.render import Renderer, Target
from jobs.data.stage_tokenizer import Tokenizers, origins, target_of
from jobs.models.load import torch_dtype
from jobs.models.markers import add_tokens
from jobs.models.source import check_weights
from jobs.preflight import memory
from jobs.preflight.cached import cached, offline
from jobs.preflight.roundtrip import round_trip
from jobs.preflight.shape import Shape, config, shape
from jobs.runtime.errors import JobUserError
from latentctl.spec.dataset import DatasetSpec
from latentctl.spec.engine import EngineSpec
from latentctl.spec.experiment import Experiment
from latentctl.spec.latent import NAMED_MARKERS
from latentctl.spec.prompt import Markers, PromptSpec
from latentctl.spec.stage import StageBase

_ROWS = 200
"""So many rows are put to the tokenizer and back."""
_TIGHT = 0.9
"""What is computed leaves out temporary buffers and those of NCCL."""


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    level: str
    """`ok`, `warning`, `error`, or `unknown`: it could not be looked at from here."""
    where: str
    message: str
    hint: str | None = None


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

    def say(self, level: str, where: str, message: str, hint: str | None = None) -> None:
        """The same of several stages is said once."""
        if (level, message) not in {(f.level, f.message) for f in self.findings}:
            self.findings.append(Finding(level, where, message, hint))

    def wrong(self, where: str, error: JobUserError) -> None:
        self.say("error", error.where or where, error.message, error.hint)


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """{"recipe": Experiment dump, "data_dir", "gpu_mb": int | None, "as_told": bool}.

    Without `as_told` a `gpu_mb` that is None is that of this machine's GPUs. Gives {"findings": [{level,
    where, message, hint}], "stages": [{stage, memory, checkpoint, ...}], "disk": bytes}.
    """
    gpu_mb = payload.get("gpu_mb") or (None if payload.get("as_told") else _gpu_mb())
    found = inspect(
        Experiment.model_validate(payload["recipe"]),
        data_dir=payload.get("data_dir"),
        gpu_bytes=gpu_mb * 2**20 if gpu_mb else None,
    )
    return {
        "findings": [asdict(f) for f in found.findings],
        "stages": found.stages,
        "disk": found.disk,
    }


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
    where, source = f"stages.{first.name}.model", first.from_
    if source not in (None, "model"):
        folder = Path(source).expanduser()
        if folder.is_dir():
            where = f"stages.{first.name}.from"
            try:
                check_weights(folder)
                found.say("ok", where, f"{source}: weights are there")
            except JobUserError as error:
                found.wrong(where, error)
        return
    path = first.model.path
    if path is None:
        return
    if Path(path).expanduser().is_dir():
        try:
            check_weights(Path(path).expanduser())
            found.say("ok", where, f"{path}: weights are there")
        except JobUserError as error:
            found.wrong(where, error)
    elif path.startswith(("/", ".", "~")) or path.count("/") > 1:
        found.say("error", where, f"no such model directory: {path}")
    elif (place := cached(path, first.model.revision)) is not None:
        found.say("ok", where, f"{path}: in the cache, {place}")
    elif offline():
        found.say(
            "error",
            where,
            f"{path} is not in the cache, and HF_HUB_OFFLINE keeps jobs from the Hub",
            "latentctl prefetch RECIPE",
        )
    else:
        found.say(
            "warning",
            where,
            f"{path} is not in the cache: the first job downloads it, on nodes that may have no network",
            "latentctl prefetch RECIPE",
        )


def _stage(found: Inspection, stage: StageBase, first: StageBase, tokenizers: Tokenizers) -> None:
    where = f"stages.{stage.name}"
    tokenizer, why = tokenizers.of(stage)
    if tokenizer is None and first.from_ in (None, "model"):
        found.say("error", where, (why or "there is no tokenizer").removeprefix(tokenizers.WANTING))
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
    _sizes(found, stage, dimensions, longest)


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


def _sizes(found: Inspection, stage: StageBase, dimensions: Shape, longest: int | None) -> None:
    """Memory of a GPU and bytes on disk."""
    row: dict[str, Any] = {"stage": stage.name, "parameters": dimensions.parameters, "memory": {}}
    gpus = stage.resources.gpus
    if stage.settings.trains:
        precision = _precision(stage.train.precision, gpus)
        world = stage.resources.world_size
        length = min(stage.train.max_len, longest or stage.train.max_len)
        row["memory"] = memory.training(
            dimensions, stage.train, precision, world=world, tokens=stage.train.micro(world) * length
        )
        each = memory.checkpoint(dimensions, stage.train, precision)
        kept = stage.train.keep.last + 1 + bool(stage.train.keep.best)  # one more while it is written
        models = memory.exported(dimensions, precision) * (1 + bool(stage.train.keep.best))
        row |= {"checkpoint": each, "kept": kept, "disk": each * kept + models}
        found.disk += row["disk"]
    settings = stage.settings
    if isinstance(settings, EngineSpec):
        precision = _precision(settings.precision, gpus)
        token = memory.cache_per_token(dimensions, precision)
        row["cache_per_token"] = token
        row["memory"] |= {
            "weights": memory.exported(dimensions, precision) // settings.tensor_parallel,
            "KV cache": token * settings.max_batch_tokens // settings.tensor_parallel,
        }
    found.stages.append(row)
    if gpus and row["memory"]:
        _fits(found, stage, row)


def _fits(found: Inspection, stage: StageBase, row: dict[str, Any]) -> None:
    need = sum(row["memory"].values())
    parts = ", ".join(f"{what} {gib(size)}" for what, size in row["memory"].items())
    where = f"stages.{stage.name}"
    have = found.gpu_bytes
    if have is None:
        hint = "`gpu_memory: 80G` in the cluster profile lets this be judged; --deep asks a node"
        found.say("unknown", where, f"needs about {gib(need)} of each GPU ({parts})", hint)
    elif need > have:
        found.say(
            "error",
            where,
            f"needs about {gib(need)} of each GPU, which has {gib(have)} ({parts})",
            _less(stage),
        )
    elif need > _TIGHT * have:
        found.say("warning", where, f"needs about {gib(need)} of {gib(have)}: tight ({parts})", _less(stage))
    else:
        found.say("ok", where, f"needs about {gib(need)} of each GPU's {gib(have)} ({parts})")


def _less(stage: StageBase) -> str:
    """What would need less memory, the cheapest first."""
    if not stage.settings.trains:
        return "a smaller max_batch_tokens, or more tensor_parallel"
    return ", or ".join(_ways(stage))


def _ways(stage: StageBase) -> Iterator[str]:
    train = stage.train
    if train.micro(stage.resources.world_size) > 1:
        yield "a smaller train.micro_batch"
    if not train.gradient_checkpointing:
        yield "train.gradient_checkpointing: true"
    if train.zero_stage < 3 and stage.resources.world_size > 1:
        yield f"train.zero_stage: {max(2, train.zero_stage + 1)}"
    yield "more GPUs, train.lora"


def _precision(said: str, gpus: int) -> memory.Precision:
    """`auto` is bf16 on GPUs: those that lack it are rare by now."""
    if said == "auto":
        return "bf16" if gpus else "fp32"
    return "bf16" if torch_dtype(said, "cpu") == torch.bfloat16 else "fp32"  # type: ignore[arg-type]


def _gpu_mb() -> int | None:
    """Of this machine, where it has GPUs."""
    if not torch.cuda.is_available() or not os.environ.get("CUDA_VISIBLE_DEVICES", "0"):
        return None
    return (
        min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
        // 2**20
    )


def gib(size: float) -> str:
    """`1.4 GiB`."""
    if size >= 2**30:
        return f"{size / 2**30:.1f} GiB"
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"
