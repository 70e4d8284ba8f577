"""Teacher-forced log-probs and entropies, batched, with bounded logits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

_MAX_LOGITS = 2**26  # elements of one block of logits (256 MiB in fp32)

Item = tuple[list[int], list[int]]
Measure = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, T, V), the tokens that came (B, T)) -> (B, T)."""


def score(
    model: Any, items: Iterable[Item], *, max_batch: int, max_batch_tokens: int
) -> Iterator[list[float]]:
    """Log-prob of every continuation token given the prompt and the tokens before it; one list per item, in
    order.

    Raises ValueError for an item with an empty prompt: its first token has no distribution.
    """
    return _measured(model, items, _log_prob, max_batch, max_batch_tokens)


def entropies(
    model: Any, items: Iterable[Item], *, max_batch: int, max_batch_tokens: int
) -> Iterator[list[float]]:
    """Entropy in nats, at temperature 1 and before filters, of the distribution from which each
    continuation token came; else as `score`."""
    return _measured(model, items, _entropy, max_batch, max_batch_tokens)


def _measured(
    model: Any, items: Iterable[Item], measure: Measure, max_batch: int, max_batch_tokens: int
) -> Iterator[list[float]]:
    batch: list[Item] = []
    longest = 0
    for number, (prompt, continuation) in enumerate(items):
        if not prompt:
            raise ValueError(f"item {number} has an empty prompt: its first token cannot be scored")
        longest = max(longest, len(prompt) + len(continuation))
        if batch and (len(batch) >= max_batch or (len(batch) + 1) * longest > max_batch_tokens):
            yield from _measure_batch(model, batch, measure)
            batch, longest = [], len(prompt) + len(continuation)
        batch.append((prompt, continuation))
    if batch:
        yield from _measure_batch(model, batch, measure)


@torch.inference_mode()
def _measure_batch(model: Any, batch: list[Item], measure: Measure) -> list[list[float]]:
    """Left-pad, then feed the columns in blocks through a cache, so that logits never exceed
    `_MAX_LOGITS`."""
    width = max(len(p) + len(c) for p, c in batch)
    pads = [width - len(p) - len(c) for p, c in batch]
    ids = torch.tensor([[0] * n + p + c for n, (p, c) in zip(pads, batch, strict=True)], device=model.device)
    mask = torch.tensor([[0] * n + [1] * (width - n) for n in pads], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp_(min=0)
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    block = max(1, _MAX_LOGITS // (len(batch) * vocabulary))
    head = (
        width - 1 - max(len(c) for _, c in batch)
    )  # the last columns before any that predicts a continuation
    cuts = sorted({0, head, *range(head, width - 1, block), width - 1})
    found = torch.zeros(len(batch), width, device=model.device)
    cache = DynamicCache(config=model.config)
    for start, end in itertools.pairwise(cuts):
        wanted = end > head
        out = model(
            input_ids=ids[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, start:end],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0 if wanted else 1,
        )
        if wanted:
            found[:, start + 1 : end + 1] = measure(out.logits, ids[:, start + 1 : end + 1])
    rows = found.tolist()
    return [row[width - len(c) :] for row, (_, c) in zip(rows, batch, strict=True)]


def _log_prob(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probs (B, T) of `targets` (B, T) under `logits` (B, T, V)."""
    logits = logits.float()
    return logits.gather(-1, targets[..., None]).squeeze(-1) - logits.logsumexp(-1)


def _entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Entropy (B, T) in nats of softmax(`logits`)."""
    return torch.special.entr(logits.float().softmax(-1)).sum(-1)
