"""What `latentctl data --list` shows: every dataset, its forms, its grader, its options."""

from __future__ import annotations

from typing import Any

from jobs.data.generate import SPLITS
from jobs.data.registry import Entry, Files, Generator, table


def listing() -> list[dict[str, Any]]:
    """One mapping per dataset, by kind and name."""
    order = {"dataset": 0, "generator": 1, "own": 2}
    rows = [_row(entry) for entry in table().values()]
    return sorted(rows, key=lambda r: (order[r["kind"]], r["name"]))


def _row(entry: Entry) -> dict[str, Any]:
    kind, splits, forms = "own", [], []
    if isinstance(entry, Files):
        kind, splits, forms = (
            "dataset",
            list(entry.files),
            [f.about or ", ".join(f.fields) for f in entry.forms],
        )
    elif isinstance(entry, Generator):
        kind, splits = "generator", list(SPLITS)
    return {
        "name": entry.name,
        "kind": kind,
        "about": entry.about,
        "splits": splits,
        "grader": entry.grader,
        "forms": forms,
        "options": [
            {
                "name": name,
                "default": field.get_default(call_default_factory=True),
                "about": field.description or "",
            }
            for name, field in entry.options.model_fields.items()
        ],
    }
