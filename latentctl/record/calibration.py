"""`calibration.json`: which entropy threshold leaves which share of steps above it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentctl.errors import Exit, UserError
from latentctl.record.atomic import read_json

VERSION = 1
Interval = tuple[float, float]


@dataclass(frozen=True)
class Share:
    """A row of the table."""

    threshold: float
    """In nats."""
    share: float
    """Of all steps, those with a higher entropy."""
    ci: Interval
    """95 %, over problems."""


@dataclass(frozen=True)
class Target:
    """The threshold for a wanted share."""

    ratio: float
    threshold: float
    """The least measured entropy above which no larger share of the steps lies."""
    ci: Interval


@dataclass(frozen=True)
class Calibration:
    """What a stage of the method `calibrate` measured, and on what."""

    model: str
    dataset: str
    steps: int
    problems: int
    """Those with at least one step."""
    rows: tuple[Share, ...]
    target: Target | None
    latent: dict[str, Any] | None
    """The settled LatentSpec; None: text alone."""
    on: str
    """The distribution: that of the latent `input`, of the `model` at temperature 1, or of the `text` tokens
    of the reasoning."""
    temperature: float
    """At which the entropies were taken, before any filter."""

    def threshold(self, ratio: float) -> float:
        """The threshold above which the share `ratio` of steps lies. Raises UserError where another was
        measured, or none."""
        if self.target is not None and self.target.ratio == ratio:
            return self.target.threshold
        held = "no ratio" if self.target is None else f"the ratio {self.target.ratio}"
        raise UserError(
            f"a threshold for the ratio {ratio} is asked for; this calibration found one for {held}",
            hint=f"calibrate again: latentctl calibrate RECIPE --target-ratio {ratio}",
        )

    def dump(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {"version": VERSION, **asdict(self)}


def parse(value: Mapping[str, Any]) -> Calibration:
    """The opposite of `dump`. Raises UserError for another version, ValueError or TypeError for damage."""
    if value.get("version") != VERSION:
        raise UserError(
            f"a calibration of version {value.get('version')!r}; this latentctl reads version {VERSION}"
        )
    said = {k: v for k, v in value.items() if k not in ("version", "rows", "target")}
    rows = tuple(Share(r["threshold"], r["share"], _interval(r["ci"])) for r in value["rows"])
    target = value["target"]
    if target is not None:
        target = Target(target["ratio"], target["threshold"], _interval(target["ci"]))
    return Calibration(**said, rows=rows, target=target)


def read_calibration(path: Path) -> Calibration:
    """Raises UserError where it is not there, damaged, or of another version."""
    try:
        return parse(read_json(path))
    except OSError as error:
        words = f"no calibration to read: {error.strerror}"
        raise UserError(
            words,
            hint="latentctl calibrate RECIPE makes one",
            where=str(path),
            code=Exit.NOT_FOUND,
            kind="not_found",
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"the calibration is damaged: {error!r}", where=str(path)) from error


def _interval(pair: Any) -> Interval:
    low, high = pair
    return float(low), float(high)
