"""The plain Hugging Face directory that a training leaves behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from jobs.models.latent_file import NAME as LATENT_FILE
from jobs.models.latent_file import VERSION
from latentctl.record.atomic import write_json

hf_logging.disable_progress_bar()  # logs are files


def export(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, latent: dict[str, Any]
) -> None:
    """Write `model` as a plain directory: safetensors, config, generation config, tokenizer, and
    `latent.json`.

    A collective: under ZeRO-3 every process must call it; rank 0 writes, and the others do not wait for it.
    LoRA is merged into what is written, never into `model`. Weights keep the dtype in which the model
    trains. `folder` appears whole or not at all; one that exists is replaced. Raises OSError.
    """
    main = not dist.is_initialized() or dist.get_rank() == 0
    weights = plain_weights(model, keep=main)
    if not main:
        return
    with replacing(folder) as part:
        _set_specials(model, tokenizer)
        model.save_pretrained(part, state_dict=weights)
        tokenizer.save_pretrained(part)
        write_json(part / LATENT_FILE, {"version": VERSION, "input": None, **latent})


def plain_weights(model: nn.Module, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """Every weight under its plain name on the CPU, gathered from all ranks under ZeRO-3, LoRA merged.

    Tied weights come once. With `keep` false (ranks that only take part in the gathering) the answer is
    empty.
    """
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    adapted: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{a}.") for a in adapted):
            continue
        lora = hasattr(module, "get_base_layer") and hasattr(module, "get_delta_weight")
        if lora:
            adapted.append(name)
        owner: Any = module.get_base_layer() if lora else module  # type: ignore[operator]
        own = {k: p for k, p in owner.named_parameters(recurse=False) if id(p) not in seen}
        seen.update(id(p) for p in own.values())
        with gathered(list(module.parameters(recurse=lora))):
            if keep:
                for key, parameter in own.items():
                    value = parameter.detach()
                    if lora and key == "weight":
                        value = _merged(module, value)
                    found[f"{name}.{key}".lstrip(".")] = value.to("cpu", copy=True).contiguous()
        if keep:
            volatile = owner._non_persistent_buffers_set
            for key, buffer in owner.named_buffers(recurse=False):
                if key not in volatile:
                    found[f"{name}.{key}".lstrip(".")] = buffer.detach().to("cpu", copy=True)
    return found


def _merged(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """Added up in fp32: a bf16 product of two small factors would lose most of the update."""
    total = weight.float()
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            a, b = layer.lora_A[adapter].weight.float(), layer.lora_B[adapter].weight.float()
            delta = (b @ a) * layer.scaling[adapter]
            total = total + (delta.T if layer.fan_in_fan_out else delta)
        elif adapter in layer.lora_embedding_A:
            total = total + layer.get_delta_weight(adapter).float()
    return total.to(weight.dtype)


def gathered(parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:
    if not any(hasattr(p, "ds_id") for p in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)


def _set_specials(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Config and generation config name the tokenizer's ends and padding, where the model's own do not
    already."""
    config = model.config
    if not model.can_generate():
        return
    settings = model.generation_config or GenerationConfig()
    ends = settings.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if tokenizer.eos_token_id not in ends:
        ends = [tokenizer.eos_token_id, *ends]
    settings.eos_token_id = ends[0] if len(ends) == 1 else ends
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
    if getattr(config, "eos_token_id", None) is None:
        config.eos_token_id = tokenizer.eos_token_id
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = settings


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well, and vanishes
    otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    old = folder.parent / f".{folder.name}.{os.getpid()}.old"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
