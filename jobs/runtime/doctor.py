"""What the data plane finds on this machine: for `latentctl doctor` and `latentctl clusters test`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

PACKAGES = (
    "torch", "transformers", "tokenizers", "datasets", "deepspeed", "peft", "safetensors", "accelerate",
    "math-verify", "vllm", "wandb", "numpy", "triton",
)  # fmt: skip
NEEDED = ("torch", "transformers", "datasets", "deepspeed", "safetensors")


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Versions, devices, and whether what training needs can be imported. `payload` says nothing yet.

    Never raises for what it finds: `problems` lists it in words, empty where all is well.
    """
    problems: list[str] = []
    versions = {name: _version(name) for name in PACKAGES}
    problems += [f"{name} is not installed" for name in NEEDED if versions[name] is None]
    torch = _torch(problems)
    return {
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "host": platform.node(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "versions": versions,
        "torch": torch,
        "deepspeed": _deepspeed(problems),
        # Not needed; DeepSpeed's optional ops would use them.
        "compilers": {name: shutil.which(name) for name in ("g++", "nvcc", "ninja")},
        "problems": problems,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch(problems: list[str]) -> dict[str, Any] | None:
    try:
        import torch
        import torch.distributed as dist
    except Exception as exc:
        problems.append(f"torch cannot be imported: {exc}")
        return None
    cuda = torch.cuda.is_available()
    if not cuda and torch.version.cuda and shutil.which("nvidia-smi"):
        problems.append("this torch is built for CUDA, but it finds no usable GPU here")
    return {
        "cuda": torch.version.cuda,
        "cuda_available": cuda,
        "bf16": cuda and torch.cuda.is_bf16_supported(),
        "backends": [b for b in ("gloo", "nccl") if dist.is_available() and dist.is_backend_available(b)],
        "threads": torch.get_num_threads(),
        "gpus": [_gpu(i) for i in range(torch.cuda.device_count())] if cuda else [],
    }


def _gpu(index: int) -> dict[str, Any]:
    import torch

    found = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return {
        "index": index,
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory_mb": total // 2**20,
        "free_mb": free // 2**20,
    }


def _deepspeed(problems: list[str]) -> dict[str, Any]:
    """The import alone: it fails where a wheel does not fit torch, or where CUDA is half installed."""
    from jobs.runtime.distributed import import_deepspeed

    try:
        return {
            "imports": True,
            "accelerator": import_deepspeed().accelerator.get_accelerator().device_name(),
        }
    except Exception as exc:
        problems.append(f"deepspeed cannot be imported: {exc}")
        return {"imports": False, "error": str(exc)}
