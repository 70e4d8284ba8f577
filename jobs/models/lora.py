"""Low-rank adapters through peft."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from jobs.runtime.errors import JobUserError
from latentctl.spec.model import LoraSpec


def add_lora(model: PreTrainedModel, spec: LoraSpec, *, seed: int) -> PreTrainedModel:
    """Put adapters into `model` in place; all else is frozen. The same adapters for the same seed on every
    rank.

    The model keeps its class and its names, so that nothing else needs to know. Raises JobUserError for
    modules that the model does not have.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    targets = spec.target_modules
    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]
        lora_dropout=spec.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    config = _maybe_include_all_linear_layers(config, model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, model)
        except ValueError as e:
            raise JobUserError(
                f"LoRA: {e}",
                hint="name modules of this model under train.lora.target_modules, or say all-linear",
            ) from e
    return model
