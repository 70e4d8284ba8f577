"""Points of a sweep, by what they ask of a cluster: the learning rate makes no difference to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latentctl.record.findings import Finding
from latentctl.record.sweeps import value_text

if TYPE_CHECKING:
    from latentctl.spec.resolve import Point

_SAME = {
    "seed", "latent.noise", "latent.stop", "sampling.min_p", "sampling.temperature", "sampling.top_k",
    "sampling.top_p", "train.betas", "train.clip", "train.epochs", "train.eps", "train.lr",
    "train.min_lr_ratio", "train.schedule", "train.steps", "train.warmup", "train.weight_decay",
}  # fmt: skip
"""Keys, with all below them, on which neither a place in the queue nor bytes depend."""


@dataclass
class Kind:
    """Points that ask the same."""

    point: Point
    """The first of them."""
    name: str
    """What tells it from others, `train.micro_batch=8`; empty where nothing does."""
    count: int


def kinds(points: Sequence[Point]) -> list[Kind]:
    """In the order of the points."""
    found: dict[str, Kind] = {}
    for point in points:
        name = ", ".join(dict.fromkeys(_telling(point)))
        found.setdefault(name, Kind(point, name, 0)).count += 1
    return list(found.values())


def merged(of_each: Sequence[tuple[str, Iterable[Finding]]]) -> Iterator[Finding]:
    """Findings of several kinds, (name, findings) each, every one once; where not all share it, it says whose
    it is."""
    whose: dict[Finding, dict[str, None]] = {}
    for name, findings in of_each:
        for finding in findings:
            whose.setdefault(finding, {})[name] = None
    for finding, names in whose.items():
        if len(names) == len(of_each):
            yield finding
        else:
            first, *more = names
            others = f" and {len(more)} more" if more else ""
            yield replace(finding, where=f"{finding.where} ({first}{others})")


def _telling(point: Point) -> Iterator[str]:
    for varies in (point.varies, *(part.varies for part in point.parts)):
        for key, value in varies.items():
            words = key.split(".")
            plain = words[2:] if words[0] == "stages" else words
            if not any(".".join(plain[:n]) in _SAME for n in range(1, len(plain) + 1)):
                yield f"{key}={value_text(value)}"
