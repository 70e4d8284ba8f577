"""The process group of a job: NCCL on GPUs, gloo on CPUs, nothing for a single process that needs none.

Small agreements between processes (stop or go on, who has finished) go through a gloo group on the host even
where gradients go through NCCL: they cost no synchronisation with the GPU.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from jobs.runtime.errors import JobUserError

if TYPE_CHECKING:
    import torch

    from jobs.methods.protocol import World

TIMEOUT = timedelta(minutes=30)
"""Rank 0 may export a large model while the others wait. A failed rank is noticed by its entry."""

_control: Any = None


def init(world: World, *, deepspeed: bool = False) -> None:
    """Join the job's process group. May be called again; a single process joins one only for DeepSpeed.

    Reads MASTER_ADDR and MASTER_PORT where there are several processes. With `deepspeed`, DeepSpeed is
    imported so that it compiles nothing, and its communication is set up on the same group.
    """
    global _control
    if world.size > 1 or deepspeed:
        import torch
        import torch.distributed as dist

        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(device(world))
        if not dist.is_initialized():
            backend = "nccl" if cuda else "gloo"
            if world.size == 1:
                store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
                dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=TIMEOUT)
            else:
                dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=TIMEOUT)
            _control = dist.new_group(backend="gloo", timeout=TIMEOUT) if cuda and world.size > 1 else None
    if deepspeed:
        _init_deepspeed(world)


def _init_deepspeed(world: World) -> None:
    engine = import_deepspeed()
    if engine.comm.is_initialized():
        return
    import torch

    # DeepSpeed reads its device from here; it differs from the scheduler's where a process sees only its own
    # GPU.
    os.environ["LOCAL_RANK"] = (
        str(device(world).index or 0) if torch.cuda.is_available() else str(world.local_rank)
    )
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(world.rank), str(world.size)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0")  # the group exists already: nobody listens there
    engine.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False, verbose=False
    )


def import_deepspeed() -> Any:
    """DeepSpeed, imported so that no compiler is ever started for its shared-memory collectives.

    Without this, the first `init_distributed` on a CPU compiles an extension for more than a minute and fails
    where there is no compiler. DeepSpeed 0.19 looks the extension up in `deepspeed.ops.__compatible_ops__`
    and only there; left to itself it fills that table by running compilers.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__dict__["__compatible_ops__"] = {}
    return deepspeed


def device(world: World) -> torch.device:
    """This process's device: its own GPU, or the first of them, where GPUs are visible, else the CPU.

    Raises JobUserError where a node's processes need more GPUs than are visible.
    """
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    if visible == world.gpus:  # a process is shown its own alone
        return torch.device("cuda", 0)
    first = world.local_rank * world.gpus
    if first + world.gpus > visible:
        raise JobUserError(
            f"process {world.local_rank} of this node finds {visible} GPUs",
            hint="resources.tasks must not exceed resources.gpus",
        )
    return torch.device("cuda", first)


def _active() -> Any:
    """`torch.distributed` where a group of several processes exists, else None. Imports nothing."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist


def joined() -> bool:
    """This process belongs to a process group, if only of itself. Imports nothing."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def barrier() -> None:
    """Wait for all processes. Nothing to wait for in a single one."""
    if dist := _active():
        dist.barrier(group=_control)


def all_max(value: float) -> float:
    """The largest value over all processes, on each of them."""
    if not (dist := _active()):
        return value
    import torch

    held = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(held, op=dist.ReduceOp.MAX, group=_control)
    return type(value)(held.item())


def all_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on each of them. `values` (...) on the host, float64; stays as it is."""
    if not (dist := _active()):
        return values
    held = values.clone()
    dist.all_reduce(held, group=_control)
    return held


def gather(value: Any) -> list[Any]:
    """Every process's value (anything that pickles), by rank, on each of them."""
    if not (dist := _active()):
        return [value]
    held = [None] * dist.get_world_size()
    dist.all_gather_object(held, value, group=_control)
    return held


def broadcast(value: Any) -> Any:
    """Rank 0's value (anything that pickles), on each process."""
    if not (dist := _active()):
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0, group=_control)
    return held[0]


def shutdown() -> None:
    """Leave the group, after a job that went well. A failed one exits without: its peers may be gone."""
    global _control
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    _control = None
