"""Whether an engine computes what the trainer computes: the proof of a weight sync."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from jobs.generate.protocol import Engine
from jobs.generate.score import score

Item = tuple[list[int], list[int]]
_ROWS, _TOKENS = 32, 32768


class Disagreement(RuntimeError):
    """The engine's log-probs are not the trainer's: training on its samples would be wrong."""


def agrees(
    engine: Engine,
    trainer: nn.Module | Sequence[Sequence[float]],
    items: Iterable[Item],
    *,
    tolerance: float = 1e-3,
) -> float:
    """The largest difference between the log-probs that `engine` and `trainer` give to the tokens of `items`
    (prompt ids, continuation ids). `trainer`: its model, or what its forward gave.

    Raises Disagreement beyond `tolerance`, or where one of them is no number, and ValueError where there is
    nothing to compare.
    """
    items = list(items)
    ours = list(engine.score(items))
    theirs = trainer_scores(trainer, items) if isinstance(trainer, nn.Module) else trainer
    pairs = [
        (abs(a - b), i, t, a, b)
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True))
        for t, (a, b) in enumerate(zip(one, other, strict=True))
    ]
    if not pairs:
        raise ValueError("there are no tokens to compare log-probs of")
    worst = max(pairs, key=lambda pair: pair if pair[0] == pair[0] else (float("inf"), *pair[1:]))
    difference, item, token, a, b = worst
    if not difference <= tolerance:
        beyond = sum(not d <= tolerance for d, *_ in pairs)
        raise Disagreement(
            f"with weights of version {engine.version} the engine's log-probs are not the trainer's: "
            f"{beyond} of {len(pairs)} tokens differ by more than {tolerance:g}, at most by {difference:.3g} "
            f"(item {item}, token {token}: {a:.4f} and {b:.4f})"
        )
    return difference


def trainer_scores(model: Any, items: Iterable[Item]) -> list[list[float]]:
    """Log-probs by the trainer's own forward, without dropout. A collective under ZeRO-3."""
    training = model.training
    model.eval()
    try:
        return list(score(model, items, max_batch=_ROWS, max_batch_tokens=_TOKENS))
    finally:
        model.train(training)
