"""`latent.json` beside the weights: what an evaluation must know to repeat what training did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jobs.runtime.errors import JobUserError

NAME = "latent.json"
VERSION = 1


def read_latent(folder: str | Path) -> dict[str, Any] | None:
    """The settings that a checkpoint carries; None where it carries none. Raises JobUserError if damaged."""
    path = Path(folder) / NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as e:
        raise JobUserError(f"{path} is damaged: {e}") from e
    if not isinstance(value, dict) or value.get("version") != VERSION:
        found = value.get("version") if isinstance(value, dict) else type(value).__name__
        raise JobUserError(f"{path}: version {found!r}; this latentctl reads version {VERSION}")
    return value
