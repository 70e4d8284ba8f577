"""A causal language model taken apart: embedding, body, head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jobs.runtime.errors import JobUserError

ATTENTION = ("sdpa", "eager")
"""Implementations that take a mask per row and a cache of ours."""


class Parts:
    """`head(run(embed(ids)))` are the model's logits.

    Every step calls a module of the model and never touches a weight itself: that is what gathers the
    weights under ZeRO-3 and what adapters hang on.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config.get_text_config(decoder=True)
        self.body: nn.Module = model.get_decoder()
        self._embed: nn.Module = model.get_input_embeddings()
        self._head: nn.Module = model.get_output_embeddings()

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def embedding(self) -> Tensor:
        """The input embeddings (V, d). Under ZeRO-3 empty outside a gather."""
        return self._embed.weight  # type: ignore[return-value]

    def embed(self, ids: Tensor) -> Tensor:
        """(...) token ids -> (..., d)."""
        return self._embed(ids)

    def run(
        self, x: Tensor, *, positions: Tensor | None = None, mask: Any = None, cache: Any = None
    ) -> Tensor:
        """Inputs (B, T, d) at `positions` (B, T) -> last hidden states (B, T, d), after the final norm.

        `mask`: (B, S) of 0 and 1 over all columns seen so far, these included; or a ready
        (B, 1, T, S) one; None: nothing but causality. `cache` is a transformers `Cache` and grows by T
        columns.
        """
        return self.body(
            inputs_embeds=x,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def head(self, hidden: Tensor) -> Tensor:
        """Last hidden states (..., d) -> logits (..., V)."""
        return self._head(hidden)


def parts(model: Any) -> Parts:
    """Take `model` apart, and prove it: the parts put together give the model's own logits.

    The proof is one forward of three tokens; under ZeRO-3, where weights lie in pieces, it is left out.
    Raises JobUserError for a model that does more between its parts than the parts show.
    """
    name = type(model).__name__
    hint = "gpt2, llama, qwen2 and qwen3 models have latent steps"
    if getattr(model.config, "is_encoder_decoder", False) or not hasattr(model, "get_decoder"):
        raise JobUserError(f"{name} is not a decoder: it cannot take latent steps", hint=hint)
    taken = Parts(model)
    if taken._head is None or taken._embed is None or taken.body is model:
        raise JobUserError(f"{name} shows no embedding, body and head of its own", hint=hint)
    if not any(hasattr(p, "ds_id") for p in model.parameters()):
        _prove(taken, name, hint)
    return taken


@torch.no_grad()
def _prove(taken: Parts, name: str, hint: str) -> None:
    model = taken.model
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        ids = torch.arange(3, device=taken.embedding.device)[None] % taken.embedding.shape[0]
        whole = model(input_ids=ids, use_cache=False).logits
        ours = taken.head(taken.run(taken.embed(ids)))
    finally:
        for module in training:
            module.training = True
    if whole.shape != ours.shape or not torch.allclose(whole.float(), ours.float(), atol=1e-4, rtol=1e-3):
        raise JobUserError(
            f"{name} does more than embedding, body and head show (its logits differ): "
            "latent steps would not be what the model computes",
            hint=hint,
        )
