"""What of the Hugging Face Hub is on this machine already."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import CacheNotFound


def offline() -> bool:
    """Whether the environment keeps jobs from the Hub."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "TRUE", "YES", "ON")


def cached(name: str, revision: str | None) -> Path | None:
    """The snapshot of a model that has its configuration and whole weights; None where there is none."""
    try:
        repos = [
            r for r in scan_cache_dir(HF_HUB_CACHE).repos if r.repo_id == name and r.repo_type == "model"
        ]
    except CacheNotFound:
        return None
    for found in (revision_ for repo in repos for revision_ in repo.revisions):
        if revision not in (None, found.commit_hash) and revision not in found.refs:
            continue
        if revision is None and "main" not in found.refs:
            continue
        names = {f.file_name for f in found.files if f.blob_path.is_file()}
        if "config.json" in names and any(n.endswith(".safetensors") for n in names):
            return found.snapshot_path
    return None
