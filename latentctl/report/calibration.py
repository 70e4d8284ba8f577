"""The table of entropy thresholds that a stage of the method `calibrate` found."""

from __future__ import annotations

from latentctl.record.calibration import Calibration
from latentctl.report.text import Column, clip, number, percent, table

_WHOSE = {
    "text": "tokens of reasoning",
    "input": "latent steps",
    "model": "latent steps",
}


def calibration_text(found: Calibration, stage: str) -> str:
    """What was measured on what, the table, and the threshold for the wanted share."""
    whose = _WHOSE[found.on]
    source = f" on {found.dataset}: {found.steps:,} steps of {found.problems:,} problems"
    head = [Column("THRESHOLD", right=True), Column("ABOVE", right=True), Column("95 % CI", right=True)]
    rows = [
        [number(r.threshold), f"{percent(r.share)} %", f"{percent(r.ci[0])}-{percent(r.ci[1])}"]
        for r in found.rows
    ]
    lines = [
        f"{stage}: entropy of {whose} (nats, temperature {found.temperature:g}, before filters)",
        clip(found.model, max(20, 80 - len(source)), middle=True) + source,
        table(head, rows),
    ]
    if found.target is not None:
        low, high = found.target.ci
        lines.append(
            f"{percent(found.target.ratio)} % lie above {found.target.threshold:.4g} nats "
            f"(95 % CI {low:.4g} to {high:.4g})"
        )
    return "\n".join(line if "\n" in line else clip(line, 80, middle=True) for line in lines)
