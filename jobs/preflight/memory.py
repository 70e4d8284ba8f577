"""How many bytes training and generation need of each GPU, and a checkpoint of the disk.

Weights, gradients and optimizer states are exact for our DeepSpeed configuration (`jobs/train/config.py`;
the shares of each ZeRO stage: arXiv 1910.02054). Activations are what autograd keeps of the layers of
transformers with fused attention, per token; a step's temporary buffers, the allocator's fragmentation and
the communication buffers of NCCL (one to three GB together) come on top.
"""

from __future__ import annotations

from typing import Literal

from jobs.preflight.shape import Shape
from latentctl.spec.train import TrainSpec

Precision = Literal["fp32", "bf16"]
_BUCKET = 500_000_000
"""Gradients that DeepSpeed gathers before it reduces them: its own default, however small the model is."""
Parts = dict[str, int]
"""What needs memory -> bytes."""


def training(shape: Shape, train: TrainSpec, precision: Precision, *, world: int, tokens: int) -> Parts:
    """Of one process of `world`. `tokens`: of a micro-batch, padding included."""
    stage = train.zero_stage
    whole, held = shape.parameters, shape.trained
    width = _width(precision)
    if precision == "bf16":
        stage = max(stage, 1)  # DeepSpeed cannot accumulate in fp32 at stage 0
    own = held // world
    weights = width * whole // (world if stage == 3 else 1)
    if stage == 0:
        gradients, states, buffers = 4 * held, 8 * held, 0
    else:
        gradients = 4 * own if stage > 1 else 4 * held  # their sum, in fp32
        if stage == 1 and precision == "bf16":
            gradients += width * held
        states, buffers = 12 * own, _BUCKET * width  # a master copy and AdamW's two moments
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": states,
        "buffers": buffers,
        "activations": activations(shape, precision, tokens, checkpointing=train.gradient_checkpointing),
        "logits": tokens * shape.vocab * (12 if precision == "fp32" else 14),
    }


def activations(shape: Shape, precision: Precision, tokens: int, *, checkpointing: bool) -> int:
    """What autograd keeps of all layers; with checkpointing each layer's input, and all of one layer."""
    layer = _per_token(shape, precision) * tokens
    if not checkpointing:
        return shape.layers * layer
    return shape.layers * shape.hidden * _width(precision) * tokens + layer


def _per_token(shape: Shape, precision: Precision) -> int:
    """Bytes of one layer for one token: how many vectors of each width are kept. RMSNorm computes in fp32."""
    if shape.block == "plain":
        return _width(precision) * (8 * shape.hidden + 5 * shape.intermediate)
    inner = 4 * shape.intermediate + 2 * (shape.queries + shape.keys)
    inner += (6 if precision == "fp32" else 8) * shape.hidden
    if shape.block == "gated_qk_norm":
        inner += (2 if precision == "fp32" else 3) * (shape.queries + shape.keys)
    return _width(precision) * inner


def cache_per_token(shape: Shape, precision: Precision) -> int:
    """Keys and values of one token in all layers."""
    return 2 * shape.layers * shape.keys * _width(precision)


def checkpoint(shape: Shape, train: TrainSpec, precision: Precision) -> int:
    """Bytes of one checkpoint on disk, of all processes together."""
    masters = precision == "bf16" or train.zero_stage > 0
    frozen = shape.parameters - shape.trained
    weights = frozen if train.zero_stage == 3 else shape.parameters  # the masters are the weights there
    return _width(precision) * weights + (12 if masters else 8) * shape.trained


def exported(shape: Shape, precision: Precision) -> int:
    """Bytes of a model as it is handed on: weights alone."""
    return _width(precision) * shape.parameters


def _width(precision: Precision) -> int:
    return 4 if precision == "fp32" else 2
