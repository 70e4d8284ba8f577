"""What vLLM is started with. No vLLM is imported: the arithmetic can be checked without one, or a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

CPU_BLOCK = 32
"""Positions of one block of the KV cache on a CPU: the least that its attention takes, so that short prompts
are shared too."""

_LEAST_TOKENS = 2048  # of one step, as vLLM has them by itself


@dataclass(frozen=True, slots=True)
class Loading:
    """Which weights, and how they are read."""

    place: str
    """A directory, or a Hub id."""
    dtype: torch.dtype
    revision: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """How much the engine may hold."""

    longest: int
    """Positions of the longest request, prompt and answer together."""
    max_batch: int = 64
    max_batch_tokens: int = 32768
    """Bounds the KV cache on a CPU."""
    gpu_memory: float = 0.9
    """Bounds all of the memory on GPUs."""


@dataclass(frozen=True, slots=True)
class Devices:
    """Where it runs."""

    gpus: tuple[int, ...] = ()
    """Numbers of this process's GPUs among those that it sees; none: the CPU. They hold one copy of the model
    together."""
    own_process: bool = False
    """The engine computes in a process of its own (see `apart`)."""


def own_gpus(visible: int, each: int, local_rank: int) -> tuple[int, ...]:
    """Numbers of the `each` GPUs of this process, of the `visible` ones; () without any.

    Raises ValueError, in words, where there are too few.
    """
    if visible == 0:
        if each > 1:
            raise ValueError(f"tensor_parallel: {each} needs {each} GPUs, and this process sees none")
        return ()
    first = 0 if visible == each else local_rank * each
    if first + each > visible:
        raise ValueError(
            f"tensor_parallel: {each} needs {each} GPUs for process {local_rank} of this node, "
            f"and {visible} are visible"
        )
    return tuple(range(first, first + each))


def engine_args(loading: Loading, config: Any, room: Room, devices: Devices) -> dict[str, Any]:
    """Arguments of vLLM's `EngineArgs`; `config`: the model's text config."""
    args: dict[str, Any] = {
        "model": loading.place,
        "revision": loading.revision,
        "trust_remote_code": loading.trust_remote_code,
        "dtype": str(loading.dtype).removeprefix("torch."),
        "runner": "generate",
        "skip_tokenizer_init": True,  # it is this project's tokenizer that counts
        "generation_config": "vllm",  # what is drawn is said by each request alone
        "max_model_len": room.longest,
        "max_num_seqs": room.max_batch,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,  # logs are files
        "seed": 0,
    }
    if room.max_batch > _LEAST_TOKENS:
        args["max_num_batched_tokens"] = room.max_batch  # vLLM wants room for a token of each row
    if devices.gpus:
        if devices.gpus[0]:  # else they are those that vLLM takes by itself, whatever their names are
            args["device_ids"] = list(devices.gpus)
        return args | {
            "gpu_memory_utilization": room.gpu_memory,
            "tensor_parallel_size": len(devices.gpus),
        }
    return args | {
        "enforce_eager": True,
        "block_size": CPU_BLOCK,
        "kv_cache_memory_bytes": cache_bytes(config, loading.dtype, room),
    }


def cache_bytes(config: Any, dtype: torch.dtype, room: Room) -> int:
    """Of the keys and values of `max_batch_tokens` positions (at least one request), in whole blocks for each
    row, and one block that vLLM keeps for itself."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    position = 2 * config.num_hidden_layers * heads * head_size(config) * dtype.itemsize
    positions = max(room.max_batch_tokens, room.longest)
    blocks = -(-positions // CPU_BLOCK) + room.max_batch + 1
    return blocks * CPU_BLOCK * position


def head_size(config: Any) -> int:
    """Of each attention head; `config` may be that of a model of more than text."""
    text = config.get_text_config(decoder=True)
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def apart(gpus: int, group: bool) -> bool:
    """Whether vLLM must compute in a process of its own: with several GPUs, and where this process belongs to
    a process `group` already, which vLLM would take for its own and close in the end."""
    return gpus > 1 or group


@contextmanager
def environment(*, own_process: bool) -> Iterator[None]:
    """Of vLLM's start. What is set already stays; all is as before afterwards, so that neither a later stage
    nor a grader's process is told things that are meant for vLLM."""
    before = dict(os.environ)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(own_process))
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


_DEFAULTS = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process that has used its GPU cannot
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the scheduler has bound the job; OMP_NUM_THREADS is the worker's
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
