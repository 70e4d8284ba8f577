"""What a look at a recipe and a cluster found, on the login node or on a compute node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One line of `latentctl check --cluster`. `unknown`: it could not be looked at from here."""

    level: Level
    where: str
    message: str
    hint: str | None = None
    cluster: bool = False
    """Slurm could not be reached, or refused: exit code 4."""
