"""Random small models, for tests, tutorials and scaling studies."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from jobs.runtime.errors import JobUserError
from latentctl.spec.model import InitSpec


def config_of(init: InitSpec, vocab_size: int) -> PreTrainedConfig:
    """The family's own config for `init`. Token ids of special tokens are left to the export. No dropout."""
    inner = init.intermediate or 4 * init.hidden
    special: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if init.arch == "gpt2":
        if init.kv_heads not in (None, init.heads):
            raise JobUserError("gpt2 has no grouped key/value heads", hint="leave out model.init.kv_heads")
        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=init.max_len,
            n_embd=init.hidden,
            n_layer=init.layers,
            n_head=init.heads,
            n_inner=inner,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=init.std,
            tie_word_embeddings=init.tie_embeddings,
            **special,
        )
    family = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[init.arch]
    if init.arch == "qwen3":
        special["head_dim"] = init.hidden // init.heads
    return family(
        vocab_size=vocab_size,
        max_position_embeddings=init.max_len,
        hidden_size=init.hidden,
        num_hidden_layers=init.layers,
        num_attention_heads=init.heads,
        num_key_value_heads=init.kv_heads or init.heads,
        intermediate_size=inner,
        initializer_range=init.std,
        tie_word_embeddings=init.tie_embeddings,
        **special,
    )


def random_model(
    init: InitSpec, *, vocab_size: int, attention: str, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """Weights from `init.seed` alone: the same in every process, whatever was drawn before, at any
    precision."""
    if (init.hidden // init.heads) % 2 and init.arch != "gpt2":
        raise JobUserError(
            f"rotary positions need an even head size; hidden / heads is {init.hidden // init.heads}",
            hint="choose model.init.hidden as an even multiple of heads",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init.seed)
        model = AutoModelForCausalLM.from_config(
            config_of(init, vocab_size), attn_implementation=attention, dtype=torch.float32
        )
    return model.to(device=device, dtype=dtype)
