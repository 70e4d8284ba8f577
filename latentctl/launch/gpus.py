"""The GPUs of this machine, found without torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

NVIDIA_SMI_TIMEOUT_S = 10.0


def visible(env: Mapping[str, str] = os.environ) -> list[int]:
    """Indices of the GPUs that jobs here may use, in nvidia-smi's order.

    `LATENTCTL_GPUS` (a count, or a list like `0,2`) decides; else CUDA_VISIBLE_DEVICES narrows what the
    machine has. Raises ValueError where LATENTCTL_GPUS is neither.
    """
    given = env.get("LATENTCTL_GPUS", "").strip()
    if given:
        return _parse(given)
    narrowed = env.get("CUDA_VISIBLE_DEVICES")
    if narrowed is not None and re.fullmatch(r"\s*(-1)?\s*", narrowed):
        return []
    found = _nvidia_smi()
    if found is None:
        count = len([p for p in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", p.name)])
        found = {str(i): i for i in range(count)}
    if narrowed is None:
        return sorted(set(found.values()))
    return [found[name.strip()] for name in narrowed.split(",") if name.strip() in found]


def _parse(text: str) -> list[int]:
    if re.fullmatch(r"\d+", text):
        return list(range(int(text)))
    if re.fullmatch(r"\d+(\s*,\s*\d+)+,?|\d+,", text):
        return list(dict.fromkeys(int(i) for i in text.split(",") if i.strip()))
    raise ValueError(f"LATENTCTL_GPUS is {text!r}: a number of GPUs (4) or a list of them (0,2)")


def _nvidia_smi() -> dict[str, int] | None:
    """Every name of every GPU -> index; None where nvidia-smi is missing, fails, or hangs on a bad driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, "-L"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    names = {}
    for line in done.stdout.splitlines():
        m = re.match(r"GPU (\d+): .*\(UUID: (GPU-[0-9a-f-]+)\)", line)
        if m:
            names[m[1]] = names[m[2]] = int(m[1])
    return names
