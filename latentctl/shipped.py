"""Files that come with latentctl: recipes, cluster profiles, the devbox, the pinned versions."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """`recipes` or `cluster`: package data of an installed latentctl, else the folder of the checkout."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.exists() else _PACKAGE.parent / name


def constraints() -> Path:
    """The pinned versions, for pip's `-c`."""
    return folder("constraints.txt")
