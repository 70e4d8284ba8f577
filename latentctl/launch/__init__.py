"""Starting jobs: executors behind one protocol, and the entry that they start."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentctl.launch.protocol import Executor
    from latentctl.spec.cluster import ClusterProfile


def executor_for(profile: ClusterProfile) -> Executor:
    """The executor that a cluster profile names. Slurm's parts are loaded only where they are used."""
    if profile.executor == "slurm":
        from latentctl.launch.slurm import SlurmExecutor

        return SlurmExecutor(profile)
    from latentctl.launch.local import LocalExecutor

    return LocalExecutor(profile)
