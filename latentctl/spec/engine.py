"""What generates, and how much it may take of the machine: said alike by every method that generates."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from latentctl.spec.base import Spec

VLLM_TOP_K = 64
"""vLLM mixes at most so many tokens into a soft latent step: its buffers are made once, at the start."""


class EngineSpec(Spec):
    """Part of the settings of a method that generates."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto`: vLLM where the interpreter has one that fits, else transformers, and the log says why."""
    tensor_parallel: int = Field(default=1, ge=1, le=64)
    """GPUs that hold one copy of the model together (vLLM alone). A node of g GPUs then runs
    g / tensor_parallel processes."""
    gpu_memory: float = Field(default=0.9, gt=0, le=1)
    """Share of each GPU's memory that vLLM may use: what weights and activations leave of it is its KV
    cache."""
    max_batch: int = Field(default=64, ge=1)
    """Most rows in one batch."""
    max_batch_tokens: int = Field(default=32768, ge=16)
    """Bound of (prompt + new tokens) × rows in one batch, and so of the KV cache's memory. vLLM on GPUs goes
    by `gpu_memory` instead."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    @property
    def needs_vllm(self) -> bool:
        """No other engine will do."""
        return self.engine == "vllm" or self.tensor_parallel > 1
