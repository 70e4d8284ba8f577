"""Which model: a Hugging Face id, a directory, or a small random one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from latentctl.spec.base import Spec


class InitSpec(Spec):
    """A random small model, for tests, tutorials and scaling studies."""

    arch: Literal["qwen3", "qwen2", "llama", "gpt2"] = "gpt2"
    """Model family."""
    hidden: int = Field(default=128, ge=8, le=16384)
    """Width d."""
    layers: int = Field(default=2, ge=1, le=200)
    heads: int = Field(default=4, ge=1, le=256)
    """Attention heads; must divide `hidden`."""
    kv_heads: int | None = Field(default=None, ge=1, le=256)
    """Key/value heads, for grouped-query families; `heads` if unsaid."""
    intermediate: int | None = Field(default=None, ge=8)
    """Width of the MLP; 4 × hidden if unsaid."""
    max_len: int = Field(default=512, ge=16, le=1_048_576)
    """Longest sequence in tokens."""
    tie_embeddings: bool = True
    std: float = Field(default=0.02, gt=0, le=1)
    """Deviation of the initial weights. 0.02 suits widths of about 1000; a narrow model learns far faster
    with about 1 / sqrt(hidden)."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _divides(self) -> InitSpec:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        return self


class TokenizerInit(Spec):
    """A tokenizer trained on the text of the stage's dataset."""

    kind: Literal["word", "bpe", "byte"] = "word"
    """`word`: one token per word or sign; `bpe`: byte-level BPE; `byte`: bytes only, nothing is trained."""
    vocab_size: int = Field(default=512, ge=32, le=262_144)
    """At most so many tokens."""


class LoraSpec(Spec):
    """Low-rank adapters through peft; the export is merged into plain weights."""

    r: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class ModelSpec(Spec):
    """A model. `model: Qwen/Qwen3-1.7B` is short for `model: {path: Qwen/Qwen3-1.7B}`."""

    path: str | None = Field(default=None, min_length=1)
    """Hugging Face id, or a directory (relative to where `latentctl` is called)."""
    init: InitSpec | None = None
    """A random model instead of `path`."""
    tokenizer: str | TokenizerInit | None = None
    """Id or directory of a tokenizer, or how to train one; the model's own if unsaid."""
    revision: str | None = None
    """Git revision on the Hub."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you read that code."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """How transformers computes it; vLLM chooses its own."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        if (self.path is None) == (self.init is None):
            raise ValueError(
                "give either path (an id or a directory) or init (a random small model), not both"
            )
        if self.init is None and isinstance(self.tokenizer, TokenizerInit):
            raise ValueError("a tokenizer is trained only for a random model (init)")
        return self


def _short(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


ModelField = Annotated[ModelSpec, BeforeValidator(_short, json_schema_input_type=ModelSpec | str)]
