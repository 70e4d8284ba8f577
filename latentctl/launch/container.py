"""Workers in a container. Standard library only: the entry uses it on compute nodes.

apptainer wraps the worker's command on the node; pyxis is told to srun, and then the entry runs inside, too.
The snapshot of a sweep lies outside its points' run directories, and is mounted as well.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def wrap(command: list[str], *, container: dict[str, Any] | None, run: Path, gpus: int) -> list[str]:
    """The worker's command as it is run on the node. `container` is that of plan.json's cluster, or None.

    The run directory is mounted where it is; further mounts are `/host:/inside`. The environment
    passes through.
    """
    if not container or container["runtime"] != "apptainer":
        return command
    program = next((p for p in ("apptainer", "singularity") if shutil.which(p)), "apptainer")
    mounts = [part for m in (*_ours(run), *container["mounts"]) for part in ("--bind", m)]
    return [
        program,
        "exec",
        *(["--nv"] if gpus else []),
        *mounts,
        "--pwd",
        str(run),
        container["image"],
        *command,
    ]


def _ours(run: Path) -> list[str]:
    """The run directory, and where its snapshot really is."""
    code = (run / "code").resolve()
    return [f"{run}:{run}", *([] if code.is_relative_to(run.resolve()) else [f"{code}:{code}"])]


def pyxis(image: str, mounts: Sequence[str], run: Path) -> list[str]:
    """srun's arguments for the pyxis plugin."""
    return [
        f"--container-image={image}",
        f"--container-mounts={','.join([*_ours(run), *mounts])}",
        f"--container-workdir={run}",
    ]
