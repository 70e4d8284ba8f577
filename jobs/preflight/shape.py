"""A model's dimensions, from its configuration alone: no weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from jobs.models.lora import add_lora
from jobs.models.random_init import config_of
from jobs.models.source import explain, locate
from latentctl.spec.model import InitSpec, LoraSpec
from latentctl.spec.stage import StageBase


@dataclass(frozen=True)
class Shape:
    """What memory depends on."""

    parameters: int
    """Tied weights count once."""
    trained: int
    """Of which an optimizer holds states: all of them, or adapters alone."""
    layers: int
    hidden: int
    intermediate: int
    queries: int
    """Heads × head size."""
    keys: int
    """Key/value heads × head size."""
    vocab: int
    longest: int | None
    """Positions that it knows."""
    block: Literal["gated", "gated_qk_norm", "plain"]
    """The kind of its layers: a gated MLP, the same with norms of queries and keys, an MLP of two
    matrices."""


def weights_of(stage: StageBase) -> str | None:
    """The directory or Hub id that a stage without a stage before it starts from; None: a random model. A run
    that it starts from has the shape of the recipe's model."""
    source = stage.from_
    return source if source is not None and Path(source).expanduser().is_dir() else stage.model.path


def config(stage: StageBase, vocab_size: int) -> Any:
    """The configuration of a stage's model. Raises JobUserError where it cannot be read."""
    spec, source = stage.model, weights_of(stage)
    if source is None:
        return config_of(spec.init or InitSpec(), vocab_size)
    place = locate(source)
    try:
        return AutoConfig.from_pretrained(
            place,
            revision=spec.revision if place == spec.path else None,
            trust_remote_code=spec.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise explain(place, "model", error) from error


def shape(found: Any, *, lora: LoraSpec | None = None, trust_remote_code: bool = False) -> Shape:
    """Dimensions of the model of a configuration. It is built without memory for its weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(found, trust_remote_code=trust_remote_code)
        parameters = _count(model.parameters())
        if lora is not None:
            model.requires_grad_(False)
            model = add_lora(model, lora, seed=0)
    trained = _count(p for p in model.parameters() if p.requires_grad)
    text = found.get_text_config()
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    norms = any(name.endswith("q_norm") for name, _ in model.named_modules())
    gated = any(name.endswith("gate_proj") for name, _ in model.named_modules())
    return Shape(
        parameters=parameters,
        trained=trained,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None)
        or getattr(text, "n_inner", None)
        or 4 * text.hidden_size,
        queries=heads * size,
        keys=(getattr(text, "num_key_value_heads", None) or heads) * size,
        vocab=text.vocab_size,
        longest=getattr(text, "max_position_embeddings", None),
        block="gated_qk_norm" if norms else "gated" if gated else "plain",
    )


def _count(parameters: Any) -> int:
    return sum({id(p): p.numel() for p in parameters}.values())
