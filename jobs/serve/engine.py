"""vLLM's arguments for a server: the one place where they come together."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from jobs.generate.make import why_not_vllm
from jobs.generate.vllm_args import CPU_BLOCK, Room, cache_bytes
from jobs.generate.vllm_plugin.setup import engine_args
from jobs.models.source import explain, locate
from jobs.runtime.errors import JobUserError
from jobs.serve.told import Told

_QUIET = "/health,/metrics"
"""Asked every second by whoever watches the server: left out of the log of requests."""


def config_of(told: Told) -> PretrainedConfig:
    """The model's config. Raises JobUserError where there is none to read."""
    place = locate(told.source)
    try:
        return AutoConfig.from_pretrained(
            place, revision=told.revision, trust_remote_code=told.trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise explain(place, "model", error) from error


def plugin(config: PretrainedConfig) -> tuple[dict[str, Any], str | None]:
    """Arguments that bring latent steps to this model, or none and the reason in words. Raises JobUserError
    where this vLLM cannot serve it even as text."""
    if reason := why_not_vllm(lambda: config, ()):
        raise JobUserError(f"vLLM cannot serve this model here: {reason}")
    try:
        return engine_args(config.architectures), None
    except ValueError as error:
        return {}, str(error)


def arguments(told: Told, config: PretrainedConfig, latent: dict[str, Any], *, cpu: bool) -> dict[str, Any]:
    """What vLLM's argument parser would find, by name. `latent`: those of `plugin`."""
    said = told.engine
    dtype = {"fp32": "float32", "bf16": "bfloat16", "auto": "float32" if cpu else "auto"}[said["precision"]]
    given: dict[str, Any] = {
        "model": locate(told.source),
        "revision": told.revision,
        "trust_remote_code": told.trust_remote_code,
        "served_model_name": [told.served_name],
        "host": told.host,
        "port": told.port,
        "tensor_parallel_size": said["tensor_parallel"],
        "max_num_seqs": said["max_batch"],
        "max_model_len": told.max_len,
        "dtype": dtype,
        "disable_access_log_for_endpoints": _QUIET,
        "middleware": ["jobs.serve.guard.Guard"] if told.api_key else [],
    }
    if cpu:  # what compiling takes at the start is not won back here
        text = config.get_text_config(decoder=True)
        longest = told.max_len or getattr(text, "max_position_embeddings", None) or 0
        room = Room(longest, said["max_batch"], said["max_batch_tokens"])
        memory = cache_bytes(text, torch.bfloat16 if dtype == "bfloat16" else torch.float32, room)
        given |= {"enforce_eager": True, "block_size": CPU_BLOCK, "kv_cache_memory_bytes": memory}
    else:
        given["gpu_memory_utilization"] = said["gpu_memory"]
    return {k: v for k, v in given.items() if v is not None} | latent


def check_fits(told: Told, why_not: str | None) -> None:
    """Raises JobUserError where every request would be refused."""
    if why_not is not None and told.latent is not None and told.unasked == "on":
        raise JobUserError(
            f"the checkpoint takes latent steps, and this server cannot: {why_not}",
            hint="--latent off serves it as text",
        )
