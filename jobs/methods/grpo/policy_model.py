"""The model that GRPO trains: without dropout, and with frozen embeddings where stored inputs ask for it."""

from __future__ import annotations

from typing import Any

from torch import nn


def without_dropout(model: Any) -> None:
    """A rollout and its replay ask one and the same function: nothing may be left out at random."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def freeze_embeddings(model: Any) -> str:
    """The input embeddings are not trained. Returns what to tell about it."""
    table = model.get_input_embeddings()
    for parameter in table.parameters():
        parameter.requires_grad_(False)
    head = model.get_output_embeddings()
    tied = head is not None and any(p is q for p in head.parameters() for q in table.parameters())
    also = ", and the head, which is tied to them," if tied else ""
    return (
        f"the input embeddings{also} are frozen: latent inputs are kept as token ids and weights, and must "
        "mean the same when they are replayed (noise on the input keeps vectors instead, and freezes nothing)"
    )
