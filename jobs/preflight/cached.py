"""What of the Hugging Face Hub is on this machine already."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from latentctl.record.atomic import read_json


def offline() -> bool:
    """Whether the environment keeps jobs from the Hub."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "TRUE", "YES", "ON")


def cached(name: str, revision: str | None) -> Path | None:
    """The snapshot of a model that has its configuration and all of its weights; None where there is none."""
    try:
        place = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return place if (place / "config.json").is_file() and whole(place) else None


def whole(place: Path) -> bool:
    """Whether the safetensors weights are all there: one file, or each that their index names."""
    index = place / "model.safetensors.index.json"
    if not index.is_file():
        return any(place.glob("*.safetensors"))
    return all((place / name).is_file() for name in set(read_json(index)["weight_map"].values()))
