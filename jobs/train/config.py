"""From the spec to DeepSpeed's configuration and the optimizer. No part of it compiles anything at run
time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from jobs.train.split import Split
from latentctl.spec.train import TrainSpec

_PERSIST = 100_000
"""ZeRO-3 keeps parameters up to this size whole on every rank: gathering norms and biases costs more than it
saves."""


def deepspeed_config(train: TrainSpec, split: Split, dtype: torch.dtype) -> dict[str, Any]:
    """The configuration of one engine. Nothing in it is "auto": what runs is what stands here.

    bf16 accumulates gradients in fp32 at every stage. DeepSpeed cannot do that at stage 0, where bf16
    therefore runs as stage 1: the same arithmetic, with the optimizer states shared out.
    """
    stage = train.zero_stage
    bf16 = dtype == torch.bfloat16
    if bf16 and stage == 0:
        stage = 1
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = _PERSIST
    config: dict[str, Any] = {
        "train_batch_size": split.batch,
        "train_micro_batch_size_per_gpu": split.micro,
        "gradient_accumulation_steps": split.accumulate,
        "gradient_clipping": 0.0 if stage == 0 else train.clip,  # stage 0 is clipped by the loop: see Engine
        "zero_optimization": zero,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the GPU at every step
    }
    if bf16:
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices and embeddings decay; biases, norms and other vectors do
    not.

    Each name is in one group only; tied weights count once.
    """
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter, norm in _trainable(model):
        (plain if parameter.ndim < 2 or norm else decay).append(parameter)
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def _trainable(model: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    seen: set[int] = set()
    for module in model.modules():
        norm = "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter, norm


def optimizer(model: nn.Module, train: TrainSpec, device: torch.device) -> torch.optim.AdamW:
    """PyTorch's own AdamW: DeepSpeed's versions need a compiler at run time. Fused on a GPU."""
    beta1, beta2 = train.betas
    groups = parameter_groups(model, train.weight_decay)
    fused = device.type == "cuda"
    return torch.optim.AdamW(groups, lr=train.lr, betas=(beta1, beta2), eps=train.eps, fused=fused or None)
