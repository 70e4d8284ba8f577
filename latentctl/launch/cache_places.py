"""Where jobs look for models and data sets of the Hugging Face Hub, which need not be where this shell
does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from latentctl.launch.environment import PLAIN

if TYPE_CHECKING:
    from latentctl.spec.cluster import ClusterProfile

PLACES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME")


def as_jobs_see_it(profile: ClusterProfile) -> dict[str, str]:
    """This shell's environment with the cache of the jobs: the profile's `env`, and what it passes on."""
    kept = {*profile.passed, *(PLAIN if profile.executor == "local" else ())}
    env = {k: v for k, v in os.environ.items() if k not in PLACES or k in kept}
    return {**env, **{k: v for k, v in profile.env.items() if k.startswith("HF_") or k in PLACES}}


def unseen(profile: ClusterProfile) -> list[str]:
    """Variables that name a cache for this shell and not for the jobs."""
    seen = as_jobs_see_it(profile)
    return [name for name in PLACES if os.environ.get(name) and name not in seen]


def hub(profile: ClusterProfile) -> Path:
    """The Hub's cache of the jobs."""
    env = as_jobs_see_it(profile)
    if told := env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE"):
        return Path(told).expanduser()
    home = env.get("HF_HOME") or os.path.join(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"
