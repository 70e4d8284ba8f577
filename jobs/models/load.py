"""The model of a stage, ready to train or to generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as hf_logging

from jobs.models.random_init import random_model
from jobs.models.source import check_weights, explain, locate
from jobs.runtime.errors import JobUserError
from latentctl.spec.model import ModelSpec
from latentctl.spec.stage import StageBase

hf_logging.disable_progress_bar()  # logs are files

Precision = Literal["auto", "fp32", "bf16"]


def torch_dtype(precision: Precision, device: torch.device | str) -> torch.dtype:
    """`auto`: bf16 on a GPU that has it, else fp32."""
    if precision == "auto":
        cuda = torch.device(device).type == "cuda"
        return torch.bfloat16 if cuda and torch.cuda.is_bf16_supported(False) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def load_model(
    stage: StageBase,
    source: Path | str | None,
    *,
    precision: Precision,
    device: torch.device | str,
    vocab_size: int,
    head: bool = True,
) -> PreTrainedModel:
    """The weights of `source` (a directory or Hub id), or the stage's random `model.init` where it is None.

    Safetensors only; Python code that comes with a model runs only if the recipe says `trust_remote_code`.
    The model is in evaluation mode. `vocab_size` is the tokenizer's length. Without `head`: any model that
    gives a hidden state to every token; its own head is left out. Raises JobUserError: no such
    model, gated, offline, pickled weights only, weights missing from the files, a tokenizer larger than the
    embedding table.
    """
    device = torch.device(device)
    dtype = torch_dtype(precision, device)
    spec = stage.model
    if source is None:
        if spec.init is None:
            raise JobUserError("there are no weights to start from: give model.path or model.init")
        model = random_model(
            spec.init, vocab_size=vocab_size, attention=spec.attention, dtype=dtype, device=device
        )
        return (model if head else cast(PreTrainedModel, model.base_model)).eval()
    kind = AutoModelForCausalLM if head else AutoModel
    model = _pretrained(kind, spec, locate(source), dtype)
    model.to(device)  # type: ignore[arg-type]
    rows: Any = model.get_input_embeddings().num_embeddings
    if vocab_size > rows:
        raise JobUserError(
            f"the tokenizer has {vocab_size} tokens, the model {source} has embeddings for {rows}",
            hint="use the tokenizer that came with the model",
        )
    return model.eval()


def _pretrained(kind: Any, spec: ModelSpec, place: str, dtype: torch.dtype) -> PreTrainedModel:
    if Path(place).is_dir():
        check_weights(Path(place))
    try:
        loaded: Any = kind.from_pretrained(
            place,
            revision=spec.revision if place == spec.path else None,
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True,
            attn_implementation=spec.attention,
            dtype=dtype,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as e:
        if isinstance(e, torch.OutOfMemoryError):
            raise
        raise explain(place, "model", e) from e
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if kind is AutoModel:  # a pooling layer of its own is not used
        missing = [key for key in missing if not key.startswith("pooler.")]
    if missing:  # transformers would fill them with random numbers and go on
        raise JobUserError(
            f"the weights of {place} lack {len(missing)} tensors of {type(model).__name__}, "
            f"such as {missing[0]}",
            hint="are its files complete?"
            if kind is AutoModel
            else "is it a causal language model, and are its files complete?",
        )
    return model
