"""The results of a run beside those of its reproduction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from latentctl.record.atomic import try_read_json
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.report.text import Column, table

NUMBERS = ("accuracy", "loss", "reward", "steps", "n", "tokens_mean", "latents_mean")
Verdict = Literal["same", "within", "outside", "differs", "missing"]


@dataclass(frozen=True)
class Row:
    """One number of a stage."""

    key: str
    recorded: float | int
    interval: tuple[float, float] | None
    """That was recorded with it."""
    now: float | int | None

    @property
    def verdict(self) -> Verdict:
        """`within` or `outside` the recorded interval; without one a number is the same or differs."""
        if self.now is None:
            return "missing"
        if self.now == self.recorded:
            return "same"
        if self.interval is None:
            return "differs"
        return "within" if self.interval[0] <= self.now <= self.interval[1] else "outside"

    def dump(self) -> dict[str, Any]:
        return {**vars(self), "verdict": self.verdict}


def rows(before: RunPaths, after: RunPaths) -> list[Row]:
    """Every number that the first run recorded, by stage."""
    found: list[Row] = []
    for job in Plan.load(before.plan).jobs:
        for stage in job.stages:
            old, new = (try_read_json(r.job(job.name).stage(stage).result) or {} for r in (before, after))
            found += [
                Row(f"{stage}.{key}", old[key], _interval(old, key), new.get(key))
                for key in NUMBERS
                if isinstance(old.get(key), int | float)
            ]
    return found


def holds(found: Sequence[Row]) -> bool:
    """Nothing is missing, and nothing lies outside its interval."""
    return not any(row.verdict in ("outside", "missing") for row in found)


def text(found: Sequence[Row]) -> str:
    """For a terminal of 80 columns."""
    head = [Column("NUMBER"), Column("RECORDED", right=True), Column("INTERVAL"), Column("NOW", right=True)]
    cells = [
        [
            row.key,
            _shown(row.recorded),
            f"{row.interval[0]:.4g} to {row.interval[1]:.4g}" if row.interval else "-",
            "-" if row.now is None else _shown(row.now),
            row.verdict,
        ]
        for row in found
    ]
    return table([*head, Column("")], cells)


def _interval(result: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    said = result.get(f"{key}_ci")
    return (float(said[0]), float(said[1])) if said else None


def _shown(value: float | int) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
