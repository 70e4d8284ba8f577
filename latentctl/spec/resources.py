"""What a job asks of the machine."""

from __future__ import annotations

from pydantic import Field

from latentctl.spec.base import Duration, Size, Spec


class ResourcesSpec(Spec):
    """Per job. Unsaid values come from the cluster profile."""

    nodes: int = Field(default=1, ge=1, le=4096)
    gpus: int = Field(default=0, ge=0, le=64)
    """GPUs per node; 0 trains on CPU."""
    tasks: int | None = Field(default=None, ge=1, le=256)
    """Processes per node. Unsaid: one per GPU (one per `tensor_parallel` GPUs where vLLM joins them), or one
    on CPU."""
    cpus: int | None = Field(default=None, ge=1, le=1024)
    """CPUs per process."""
    mem: Size | None = None
    """Memory per node: `64G`."""
    time: Duration | None = None
    """Time limit: `12h`."""

    def tasks_per_node(self, gpus_of_one: int = 1) -> int:
        """Processes of a node, where each uses so many GPUs."""
        return self.tasks or max(1, self.gpus // gpus_of_one)

    @property
    def world_size(self) -> int:
        """All processes, where each uses one GPU."""
        return self.nodes * self.tasks_per_node()
