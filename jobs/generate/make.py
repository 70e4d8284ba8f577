"""Which engine serves a stage, and why not vLLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from jobs.generate.protocol import Engine, Thoughts
from jobs.generate.vllm_args import environment, head_size
from jobs.generate.vllm_plugin import FAMILIES, compat, setup, wire
from jobs.runtime.errors import JobUserError

if TYPE_CHECKING:
    from jobs.generate.tree import Judge


def why_not_vllm(config: Callable[[], Any], asked: Sequence[Thoughts]) -> str | None:
    """Why vLLM cannot serve the model of a `config` with these latent settings, in a line; None if it can.

    What is cheap to know is asked first: vLLM, whose import takes half a minute, is imported only where
    nothing else speaks against it, and the model's config is read only where vLLM is there.
    """
    if compat.installed() is None:
        return "vllm is not installed in this interpreter"
    if reason := next((reason for each in asked if (reason := wire.refuses(each))), None):
        return reason
    found = config()
    names: list[str] = list(found.architectures or ())
    if asked and not set(names) & set(FAMILIES):
        return setup.without_hook(names)
    with environment(own_process=False):
        return compat.problem() or _lacks(names, found)


def _lacks(architectures: Sequence[str], config: Any) -> str | None:
    """What this vLLM, which is fine in itself, lacks for this model on this machine."""
    from vllm import ModelRegistry
    from vllm.platforms import current_platform

    if not torch.cuda.is_available() and not current_platform.is_cpu():
        return "this vllm is built for GPUs, and there is none"
    if not set(architectures) & set(ModelRegistry.get_supported_archs()):
        return f"vllm has no {', '.join(architectures) or 'model of an unknown architecture'}"
    if current_platform.is_cpu():
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        size, known = head_size(config), CPUAttentionBackend.get_supported_head_sizes()
        if size not in known:  # vLLM itself finds out in the first step
            return f"heads of {size} are not among those of vllm's CPU build: {', '.join(map(str, known))}"
    return None


def make_engine(
    model: Any,
    tokenizer: Any,
    *,
    max_batch: int,
    max_batch_tokens: int,
    on_step: Callable[[int], bool] | None = None,
    judge: Judge | None = None,
) -> Engine:
    """The engine `transformers` on a model. Raises JobUserError for one that it cannot decode."""
    from jobs.generate.transformers_engine import TransformersEngine

    try:
        return TransformersEngine(
            model,
            tokenizer,
            max_batch=max_batch,
            max_batch_tokens=max_batch_tokens,
            on_step=on_step,
            judge=judge,
        )
    except ValueError as error:
        raise JobUserError(str(error)) from error
