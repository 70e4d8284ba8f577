"""Which sweep a run is a point of: `<runs_dir>/sweeps/<id>/sweep.json`; and how what it varies is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latentctl.record.atomic import try_read_json

SWEEPS = "sweeps"
VERSION = 1


def membership(runs_dir: Path) -> dict[str, dict[str, Any]]:
    """Run id -> {"sweep": id, "varies": {...}} for every point of every sweep. A run of several points says
    nothing of what each varies."""
    folder = runs_dir / SWEEPS
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*/sweep.json")) if folder.is_dir() else []:
        sweep = try_read_json(path) or {}
        for point in sweep.get("points", []):
            varies = point.get("varies") or {} if "stage" not in point else {}
            found[point["run"]] = {"sweep": sweep.get("id", path.parent.name), "varies": varies}
    return found


def value_text(value: Any) -> str:
    """A varied value as a person writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
