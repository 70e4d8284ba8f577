"""The architectures of vLLM's V2 runner with latent steps: the stock models, and a `ModelState` of ours."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.model_executor.models.gpt2 import GPT2LMHeadModel
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from jobs.generate.vllm_plugin.v2 import LatentModelState


class _Latent:
    """Stands before a stock architecture; shows the hidden states that its state must see."""

    latent_every: Tensor | None = None
    """(T, d) of the newest forward pass, None where a graph was replayed in its place."""
    latent_last: Tensor | None = None
    """(R, d) those that the newest logits come from."""

    @staticmethod
    def get_model_state_cls() -> type[LatentModelState]:
        return LatentModelState

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.latent_every = super().forward(*args, **kwargs)  # type: ignore[misc]
        return self.latent_every

    def compute_logits(self, hidden_states: Tensor) -> Any:
        self.latent_last = hidden_states
        return super().compute_logits(hidden_states)  # type: ignore[misc]


class LatentGPT2LMHeadModel(_Latent, GPT2LMHeadModel):
    """GPT-2."""


class LatentLlamaForCausalLM(_Latent, LlamaForCausalLM):
    """Llama, and what shares its architecture."""


class LatentQwen2ForCausalLM(_Latent, Qwen2ForCausalLM):
    """Qwen2 and Qwen2.5."""


class LatentQwen3ForCausalLM(_Latent, Qwen3ForCausalLM):
    """Qwen3."""
