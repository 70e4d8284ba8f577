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
    """Processes per node; one per GPU (or one, on CPU) if unsaid."""
    cpus: int | None = Field(default=None, ge=1, le=1024)
    """CPUs per process."""
    mem: Size | None = None
    """Memory per node: `64G`."""
    time: Duration | None = None
    """Time limit: `12h`."""

    @property
    def tasks_per_node(self) -> int:
        return self.tasks or max(1, self.gpus)

    @property
    def world_size(self) -> int:
        return self.nodes * self.tasks_per_node
