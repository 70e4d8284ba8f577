"""Small random models on disk with a tokenizer of bytes and markers, and both engines on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from jobs.generate.protocol import Request, Sample
from jobs.generate.transformers_engine import TransformersEngine
from jobs.generate.vllm_args import Devices, Loading, Room
from jobs.generate.vllm_engine import VllmEngine
from latentctl.spec.sampling import SamplingSpec

VOCAB = 320
"""More than the tokenizer has, as in many real models."""
POSITIONS = 512
SPECIAL = ["<eos>", "<pad>", "<think>", "</think>", "<|latent|>"]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, then those of SPECIAL; `##` is no token of its own, but two."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": SPECIAL[2:]})
    return made


def model(family: str, *, scale: float = 4.0, seed: int = 0) -> Any:
    """Two layers, random; weights scaled up so that its choices are clear."""
    torch.manual_seed(seed)
    none: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    common: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 128,
        "max_position_embeddings": POSITIONS,
        **none,
    }
    made: Any = {
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=2, n_positions=POSITIONS, **none)
        ),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**common, tie_word_embeddings=True)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**common)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**common, head_dim=32)),
    }[family]()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() > 1:
                weight.mul_(scale)
    return made.eval()


class Both:
    """The same weights in both engines."""

    def __init__(
        self,
        folder: Path,
        family: str,
        *,
        latent: bool = False,
        max_batch: int = 8,
        longest: int = POSITIONS,
        on_step: Callable[[int], bool] | None = None,
    ) -> None:
        if not (folder / "config.json").exists():
            model(family).save_pretrained(folder)
            tokenizer().save_pretrained(folder)
        self.folder = folder
        self.tokenizer = tokenizer()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.transformers = TransformersEngine(self.model, self.tokenizer, max_batch=max_batch)
        self.vllm = VllmEngine(
            Loading(str(folder), torch.float32),
            self.tokenizer,
            config=self.model.config,
            generation=self.model.generation_config,
            room=Room(longest, max_batch=max_batch, max_batch_tokens=4096),
            devices=Devices(),
            latent=latent,
            on_step=on_step,
        )

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def ask(
    id: str, ids: list[int], *, index: int = 0, markers: tuple[str, str] | None = None, **sampling: Any
) -> Request:
    return Request(id, index, ids, SamplingSpec(**sampling), markers)


def by_key(samples: Any) -> dict[tuple[str, int], Sample]:
    found: dict[tuple[str, int], Sample] = {}
    for sample in samples:
        assert (sample.id, sample.index) not in found
        found[sample.id, sample.index] = sample
    return found
