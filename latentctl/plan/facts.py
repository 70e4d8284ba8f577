"""What a live cluster offers, as far as it told us. `launch` fills it, `plan` judges by it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Partition:
    """One partition. None means: no limit."""

    name: str
    up: bool
    default: bool = False
    max_time_s: int | None = None
    max_nodes: int | None = None
    nodes: int = 0
    accounts: tuple[str, ...] | None = None
    """Only these may use it; None: all."""
    cpus_per_node: int = 0
    mem_mb_per_node: int = 0
    gpus: tuple[tuple[str, int], ...] = ()
    """(type, GPUs of one node) of every kind of node; the type is "" where the cluster names none."""

    @property
    def gpus_per_node(self) -> int:
        """GPUs of its largest node."""
        return max((n for _, n in self.gpus), default=0)


@dataclass(frozen=True)
class ClusterFacts:
    """A cluster as its controller and its accounting describe it."""

    name: str
    version: str
    partitions: tuple[Partition, ...]
    accounts: tuple[str, ...] | None = None
    """Accounts of the asking user; None: accounting did not answer."""
    qos: tuple[str, ...] | None = None
    max_array_size: int | None = None
    config: dict[str, str] = field(default_factory=dict)
    """`scontrol show config`, as it stands."""

    def partition(self, name: str | None) -> Partition | None:
        """The named one, the default one for None; None where there is no such partition."""
        if name is None:
            return next((p for p in self.partitions if p.default), None)
        return next((p for p in self.partitions if p.name == name), None)
