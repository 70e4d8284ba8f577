"""Several rows in one sequence, none of which sees another."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from jobs.runtime.errors import JobUserError

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3")
"""Families for which tests show that packed loss and gradients equal those of the rows alone."""


def check_packing(model: PreTrainedModel) -> None:
    """Raises JobUserError where this model cannot keep packed rows apart, or where nobody has shown that it
    does."""
    config = model.config
    off = "set sft.packing to false"
    if config.model_type not in FAMILIES:
        raise JobUserError(
            f"packing is not proven for the family {config.model_type!r}, only for {', '.join(FAMILIES)}",
            hint=off,
        )
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        raise JobUserError("packing does not go together with sliding-window layers", hint=off)
    attention = getattr(config, "_attn_implementation", None)
    if attention not in ("sdpa", "eager"):
        raise JobUserError(f"packing needs model.attention sdpa or eager, not {attention}", hint=off)


def pack(lengths: list[int], room: int) -> list[list[int]]:
    """Indices of rows per sequence: first fit, longest first, so that few sequences are needed.

    Within a sequence, rows keep their order. A row longer than `room` gets a sequence of its own.
    """
    bins: list[list[int]] = []
    left: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for b, space in enumerate(left):
            if lengths[i] <= space:
                bins[b].append(i)
                left[b] -= lengths[i]
                break
        else:
            bins.append([i])
            left.append(room - lengths[i])
    return [sorted(group) for group in bins]


def block_mask(blocks: torch.Tensor, model: Any) -> torch.Tensor:
    """(B, L) block numbers, −1 on padding -> (B, 1, L, L): who may look at whom.

    Earlier positions of the same block. Padding forms a block of its own, so that no row of the mask is
    empty, which would give NaN. Boolean for sdpa; for eager attention, which adds the mask, 0 and the
    dtype's lowest number.
    """
    length = blocks.shape[1]
    same = blocks[:, :, None] == blocks[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=blocks.device).tril()
    mask = (same & causal)[:, None]
    if model.config._attn_implementation == "eager":
        lowest = torch.finfo(model.dtype).min
        return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, lowest)
    return mask
