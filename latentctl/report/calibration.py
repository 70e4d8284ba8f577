"""The table of entropy thresholds that a stage of the method `calibrate` found."""

from __future__ import annotations

from latentctl.record.calibration import Calibration
from latentctl.report.text import Column, clip, number, percent, table

_WHOSE = {
    "text": "text tokens of the reasoning",
    "input": "latent steps",
    "model": "latent steps",
}


def calibration_text(found: Calibration, stage: str) -> str:
    """What was measured on what, the table, and the threshold for the wanted share."""
    whose = _WHOSE[found.on]
    head = [Column("THRESHOLD", right=True), Column("ABOVE", right=True), Column("95 % CI", right=True)]
    rows = [
        [number(r.threshold), f"{percent(r.share)} %", f"{percent(r.ci[0])}-{percent(r.ci[1])}"]
        for r in found.rows
    ]
    lines = [
        f"{stage}: entropy of the {whose}, in nats, at temperature {found.temperature:g}, before filters",
        f"{found.model} on {found.dataset}: {found.steps:,} steps of {found.problems:,} problems",
        table(head, rows),
    ]
    if found.target is not None:
        low, high = found.target.ci
        lines.append(
            f"{percent(found.target.ratio)} % lie above {found.target.threshold:.4g} nats "
            f"(95 % CI {low:.4g} to {high:.4g})"
        )
    return "\n".join(line if "\n" in line else clip(line, 80, middle=True) for line in lines)
