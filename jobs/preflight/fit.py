"""What a stage needs of each GPU and of the disk, and whether that is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobs.preflight import memory
from jobs.preflight.shape import Shape
from latentctl.record.findings import Level
from latentctl.record.sizes import size_text
from latentctl.spec.engine import EngineSpec
from latentctl.spec.stage import StageBase

_TIGHT = 0.9
"""What is computed leaves out temporary buffers and those of NCCL."""


def sizes(stage: StageBase, shape: Shape, longest: int | None) -> dict[str, Any]:
    """Bytes: `memory` of the GPU of a process that trains (where none does, that generates), by what needs
    it; of a training `checkpoint`, and `disk` for all that are kept. `longest`: row, in tokens."""
    row: dict[str, Any] = {"stage": stage.name, "parameters": shape.parameters, "memory": {}}
    if stage.settings.trains:
        row["memory"] = _training(stage, shape, longest)
        row |= _checkpoints(stage, shape)
    settings = stage.settings
    if isinstance(settings, EngineSpec):
        precision = _precision(settings.precision, stage)
        token = memory.cache_per_token(shape, precision)
        row["cache_per_token"] = token
        if not settings.generators:  # else they hold engines, and the trainers none
            share = settings.tensor_parallel
            if not stage.settings.trains:
                row["memory"]["weights"] = memory.exported(shape, precision) // share
            elif stage.train.zero_stage == 3 or settings.needs_vllm:  # else it generates with the very model
                row["memory"]["engine"] = memory.exported(shape, precision) // share
            row["memory"]["KV cache"] = token * settings.max_batch_tokens // share
    return row


def _trainers(stage: StageBase) -> int:
    return max(1, stage.resources.world_size - stage.settings.generators)


def _training(stage: StageBase, shape: Shape, longest: int | None) -> memory.Parts:
    train, world = stage.train, _trainers(stage)
    length = min(train.max_len, longest or train.max_len)
    precision = _precision(train.precision, stage)
    return memory.training(shape, train, precision, world=world, tokens=train.micro(world) * length)


def _checkpoints(stage: StageBase, shape: Shape) -> dict[str, int]:
    train, precision = stage.train, _precision(stage.train.precision, stage)
    each, best = memory.checkpoint(shape, train, precision), bool(train.keep.best)
    kept = train.keep.last + 1 + best  # one more while it is written
    models = memory.exported(shape, precision) * (1 + best)
    return {"checkpoint": each, "kept": kept, "disk": each * kept + models}


def fit(stage: StageBase, parts: memory.Parts, have: int | None) -> tuple[Level, str, str | None]:
    """(level, message, hint). `have`: bytes of a GPU, where that is known."""
    need = sum(parts.values())
    listed = ", ".join(f"{what} {size_text(size)}" for what, size in parts.items())
    about = f"needs about {size_text(need)} of each GPU"
    if have is None:
        hint = "`gpu_memory: 80G` in the cluster profile lets this be judged; --deep asks a node"
        return "unknown", f"{about} ({listed})", hint
    if need > have:
        return "error", f"{about}, which has {size_text(have)} ({listed})", _less(stage)
    if need > _TIGHT * have:
        return "warning", f"{about}, which has {size_text(have)}: tight ({listed})", _less(stage)
    return "ok", f"{about}, which has {size_text(have)} ({listed})", None


def _less(stage: StageBase) -> str:
    """What would need less memory, the cheapest first."""
    if not stage.settings.trains:
        return "a smaller max_batch_tokens, or more tensor_parallel"
    return ", or ".join(_ways(stage))


def _ways(stage: StageBase) -> Iterator[str]:
    train, world = stage.train, _trainers(stage)
    if train.micro(world) > 1:
        yield "a smaller train.micro_batch"
    if not train.gradient_checkpointing:
        yield "train.gradient_checkpointing: true"
    if train.zero_stage < 3 and world > 1:
        yield f"train.zero_stage: {max(2, train.zero_stage + 1)}"
    if train.lora is None:
        yield "train.lora"
    yield "more GPUs"


def _precision(said: str, stage: StageBase) -> memory.Precision:
    """`auto` is bf16 on GPUs: those that lack it are rare by now."""
    if said == "auto":
        return "bf16" if stage.resources.gpus else "fp32"
    return "bf16" if said == "bf16" else "fp32"
