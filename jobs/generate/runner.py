"""One Hugging Face model and its slot cache: prompts in, last logits out; one token per row in, logits
out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jobs.generate.cache import SlotCache

_LAYERS = {"full_attention", "sliding_attention"}


class Runner:
    """Forward passes over slots. Rows 0..n-1 are active; who sits in which row is the caller's business.

    Call it under `torch.inference_mode()`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.config = model.config.get_text_config(decoder=True)
        self.device: torch.device = model.device
        kinds = set(getattr(self.config, "layer_types", None) or ["full_attention"])
        if model.config.is_encoder_decoder or not kinds <= _LAYERS:
            what = (
                "an encoder-decoder"
                if model.config.is_encoder_decoder
                else f"layers {sorted(kinds - _LAYERS)}"
            )
            raise ValueError(f"the transformers engine cannot decode {type(model).__name__}: it has {what}")
        if self.config._attn_implementation.startswith("flash"):
            model.set_attn_implementation(
                "sdpa"
            )  # ragged rows need a mask per row, which flash does not take
        self.kinds = kinds
        self.window: int | None = getattr(self.config, "sliding_window", None)
        self.max_positions: int | None = getattr(self.config, "max_position_embeddings", None)
        self.cache = SlotCache(self.config.num_hidden_layers, self.device)

    def reset(self) -> None:
        """Free the cache."""
        self.cache = SlotCache(self.config.num_hidden_layers, self.device)

    def prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[Sequence[int]]) -> Tensor:
        """Run prompts (token ids) and store prompt i into each slot of `slots[i]`; logits (prompts, V)
        after each."""
        lengths = [len(p) for p in prompts]
        width = max(lengths)
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths], device=self.device)
        positions = (mask.cumsum(-1) - 1).clamp_(min=0)
        self.cache.prefill_into(slots, lengths, width)
        return self._forward(ids, None if min(lengths) == width else mask, positions)

    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Feed one token to each of the first rows, at its position; logits (rows, V)."""
        width = max(positions) + 1
        at = torch.tensor(positions, device=self.device)
        ids = torch.tensor(tokens, device=self.device)
        self.cache.step_at(at, width)
        mask = None if min(positions) == width - 1 else self._masks(at, width)
        return self._forward(ids[:, None], mask, at[:, None])

    def _forward(self, ids: Tensor, mask: Any, positions: Tensor) -> Tensor:
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()

    def _masks(self, positions: Tensor, width: int) -> Tensor | dict[str, Tensor]:
        """Which columns each row's one query sees: (rows, 1, 1, width), per kind of layer where there
        are several."""
        columns = torch.arange(width, device=self.device)
        full = columns[None] <= positions[:, None]
        if self.window is None or self.window >= width:
            return (
                self._shaped(full) if len(self.kinds) == 1 else dict.fromkeys(self.kinds, self._shaped(full))
            )
        sliding = full & (columns[None] > positions[:, None] - self.window)
        if self.kinds == {"full_attention"}:
            # families without layer kinds (Mistral) slide everywhere; those with kinds say so
            slides = getattr(self.config, "layer_types", None) is None
            return self._shaped(sliding if slides else full)
        both = {"full_attention": full, "sliding_attention": sliding}
        return {kind: self._shaped(both[kind]) for kind in self.kinds}

    def _shaped(self, seen: Tensor) -> Tensor:
        """Boolean for sdpa, additive for eager attention."""
        mask = seen[:, None, None]
        if self.config._attn_implementation != "eager":
            return mask
        dtype = self.model.dtype
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
