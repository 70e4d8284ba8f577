"""Next-token prediction on prompt and response: the loss falls on the response alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from jobs.train.objective import Batch, Item, Outcome
from jobs.train.packing import block_mask, pack

IGNORED = -100


class TextRow(NamedTuple):
    """Token ids of one row. Large sets are held as arrays: a list of numbers takes nine times the memory."""

    prompt: Sequence[int]
    response: Sequence[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.response)


class TextObjective:
    """Cross-entropy summed over response tokens; `accuracy` is the share of them that greedy decoding would
    hit."""

    metrics: tuple[str, ...] = ("accuracy",)

    def __init__(self, *, pad: int, pack_to: int | None = None) -> None:
        """`pad`: id that fills up; never seen by the loss. `pack_to`: put rows together into sequences of at
        most so many tokens (models that `jobs.train.packing.check_packing` lets through)."""
        self.pad = pad
        self.pack_to = pack_to

    def collate(self, items: Sequence[Item]) -> Batch:
        """Right padding, which a causal model never looks at from the left: no mask is needed, and attention
        stays on its fast path. Packed rows get positions that start anew and a mask of blocks."""
        rows: list[TextRow] = [item.row for item in items] or [TextRow([self.pad], [])]
        lengths = [row.length for row in rows]
        bins = pack(lengths, self.pack_to) if self.pack_to else [[i] for i in range(len(rows))]
        width = max(sum(lengths[i] for i in group) for group in bins)
        ids = torch.full((len(bins), width), self.pad)
        targets = torch.full((len(bins), width), IGNORED)
        positions = torch.zeros((len(bins), width), dtype=torch.long)
        blocks = torch.full((len(bins), width), -1)
        for b, group in enumerate(bins):
            at = 0
            for i in group:
                row, end = rows[i], at + lengths[i]
                ids[b, at:end] = torch.tensor([*row.prompt, *row.response])
                first = max(
                    len(row.prompt), 1
                )  # nothing stands before the first token of all: it is not predicted
                targets[b, at + first - 1 : end - 1] = ids[b, at + first : end]
                positions[b, at:end] = torch.arange(end - at)
                blocks[b, at:end] = i
                at = end
        tensors = {"ids": ids, **supervised(targets)}
        if self.pack_to:
            tensors |= {"positions": positions, "blocks": blocks}
        weight = float((targets != IGNORED).sum())
        return Batch(tensors, weight=weight, tokens=sum(lengths) if items else 0, rows=len(items))

    def loss(self, model: Any, tensors: dict[str, Any], *, measure: bool) -> Outcome:
        """The head runs only on columns that some row supervises: with a large vocabulary it is most of the
        cost."""
        extra: dict[str, Any] = {}
        if "blocks" in tensors:
            mask = block_mask(tensors["blocks"], model)
            extra = {"position_ids": tensors["positions"], "attention_mask": mask}
        columns, targets = tensors["columns"], tensors["targets"]
        output = model(input_ids=tensors["ids"], use_cache=False, logits_to_keep=columns, **extra)
        logits = output.logits.float()
        total = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        metrics = {"accuracy": (logits.argmax(-1) == targets).sum()} if measure else {}
        return Outcome(total, metrics)


def supervised(targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """(B, L) next tokens -> the (C,) columns that hold any, and the (B, C) tokens there; one column at
    least."""
    columns = (targets != IGNORED).any(0).nonzero().squeeze(1)
    if columns.numel() == 0:
        columns = torch.zeros(1, dtype=torch.long)
    return {"columns": columns, "targets": targets[:, columns]}
