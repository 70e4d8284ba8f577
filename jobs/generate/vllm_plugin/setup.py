"""The engine arguments that put the plugin into vLLM, whichever runner it will choose."""

from __future__ import annotations

from typing import Any

from jobs.generate.vllm_plugin import FAMILIES, register

_HERE = "jobs.generate.vllm_plugin"


def engine_args(architectures: list[str] | None) -> dict[str, Any]:
    """Arguments for vLLM's `EngineArgs` that bring latent steps to a model of these `architectures` (of its
    config). Raises ValueError for one without the hook.

    Imports vLLM, to ask which runner it would take.
    """
    from vllm import envs
    from vllm.platforms import current_platform

    register()
    name = next((a for a in architectures or () if a in FAMILIES), None)
    if name is None:
        raise ValueError(without_hook(architectures))
    cpu = current_platform.is_cpu()
    v2 = envs.VLLM_USE_V2_MODEL_RUNNER
    if v2 is None:
        v2 = not cpu
    ahead = not cpu  # on CPUs vLLM knows no steps that are scheduled ahead
    common = {
        "worker_cls": f"{_HERE}.cpu.LatentCPUWorker" if cpu else f"{_HERE}.gpu.LatentGPUWorker",
        "scheduler_cls": f"{_HERE}.scheduler.{'LatentAsyncScheduler' if ahead else 'LatentScheduler'}",
        "async_scheduling": ahead,
    }
    if v2:
        return common | {"hf_overrides": {"architectures": [FAMILIES[name]]}}
    return common | {"enable_prompt_embeds": True}


def without_hook(architectures: list[str] | None) -> str:
    """In words: why a model of these architectures takes no latent steps in vLLM."""
    said = ", ".join(architectures or ()) or "an unknown architecture"
    return f"{said} takes no latent steps in vLLM; these do: {', '.join(FAMILIES)} (engine: transformers may)"


def unfit(config: Any) -> str | None:
    """Why no latent step can be right in an engine of this `VllmConfig`, in words; None if it can."""
    if config.parallel_config.pipeline_parallel_size > 1:
        return (
            "latent steps need embedding and head in one place: no pipeline parallelism "
            f"(it is {config.parallel_config.pipeline_parallel_size})"
        )
    if config.speculative_config is not None:
        return "speculative decoding drafts tokens, and a latent step has none: switch one of them off"
    return None
