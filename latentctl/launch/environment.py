"""Which variables of the submitting shell reach a job: the plain ones, and those that the profile names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from latentctl.launch.processes import ENTRY_MARK, JOB_MARK, RUN_MARK

PLAIN = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "LD_LIBRARY_PATH",
    "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR",
)  # fmt: skip
"""Needed to find programs, homes and caches; none holds a secret."""

PREFIXES = ("LC_", "LATENTCTL_")


def job_environment(pass_env: Iterable[str], env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a local job: plain variables and those of `pass_env`. Values stay in memory."""
    names = {*PLAIN, *pass_env}
    kept = {k: v for k, v in env.items() if k in names or k.startswith(PREFIXES)}
    # submitted from inside a job: the new run is not part of that one
    return {k: v for k, v in kept.items() if k not in (RUN_MARK, JOB_MARK, ENTRY_MARK)}
