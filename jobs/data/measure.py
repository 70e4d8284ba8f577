"""How long the rows of a dataset are: in tokens, or in characters without a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.data.example import Example
from jobs.data.render import Renderer, Target

MOST = 5000
"""So many rows are measured, evenly spread over the dataset."""
BINS = 10


def measure(renderer: Renderer, examples: Sequence[Example], target: Target, steps: str) -> dict[str, Any]:
    """Lengths of prompt + target (of the prompt alone where there is no answer).

    {"unit", "measured", "prompt": stats, "target": stats, "total": stats, "histogram": [[from, to, rows],
    ...], "all"} with stats {"min", "median", "p95", "max", "mean"}; None of an empty target.
    """
    chosen = _spread(examples)
    prompts = [renderer.prompt_text(e) for e in chosen]
    targets = [renderer.target_text(e, target, steps) if e.answer else "" for e in chosen]
    sizes_p, sizes_t = _sizes(renderer, prompts), _sizes(renderer, targets)
    extra_p = len(renderer.prefix_ids)
    end = 1 if renderer.tokenizer else 0
    sizes_p = [n + extra_p for n in sizes_p]
    sizes_t = [n + end if text else 0 for n, text in zip(sizes_t, targets, strict=True)]
    total = [p + t for p, t in zip(sizes_p, sizes_t, strict=True)]
    with_target = [n for n in sizes_t if n]
    return {
        "unit": "tokens" if renderer.tokenizer else "characters",
        "measured": len(chosen),
        "prompt": _stats(sizes_p),
        "target": _stats(with_target) if with_target else None,
        "total": _stats(total),
        "histogram": histogram(total),
        "all": total,
    }


def _spread(examples: Sequence[Example]) -> list[Example]:
    if len(examples) <= MOST:
        return list(examples)
    return [examples[i * len(examples) // MOST] for i in range(MOST)]


def _sizes(renderer: Renderer, texts: list[str]) -> list[int]:
    if renderer.tokenizer is None:
        return [len(t) for t in texts]
    return [len(ids) for ids in renderer.tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _stats(sizes: list[int]) -> dict[str, float]:
    ordered = sorted(sizes)
    at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]  # noqa: E731
    mean = round(sum(ordered) / len(ordered), 1)
    return {"min": ordered[0], "median": at(0.5), "p95": at(0.95), "max": ordered[-1], "mean": mean}


def histogram(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """At most ten bins of one round width: (first length, last length, rows)."""
    low, high = min(sizes), max(sizes)
    width = _round_up((high - low + 1) / BINS)
    first = low - low % width
    counts: dict[int, int] = {}
    for size in sizes:
        counts[(size - first) // width] = counts.get((size - first) // width, 0) + 1
    return [
        (first + b * width, first + (b + 1) * width - 1, counts.get(b, 0)) for b in range(max(counts) + 1)
    ]


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if step * factor >= width:
                return step * factor
        step *= 10
