"""One Hugging Face model and its slot cache: prompts in, last logits out; one token or vector per row in,
logits out.

Two doors to the same model. Text alone goes through the model's own forward with token ids. As soon as a
row may take latent steps, its parts are called one by one (`jobs.models.parts`): vectors in, hidden states
out, and the head only where somebody reads the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.generate.cache import SlotCache
from jobs.models.parts import Parts, parts

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

    @cached_property
    def parts(self) -> Parts:
        """Raises JobUserError for a family whose parts do not add up to its forward."""
        return parts(self.model)

    def prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[Sequence[int]]) -> Tensor:
        """Run prompts (token ids) and store prompt i into each slot of `slots[i]`; logits (prompts, V)
        after each."""
        return self._forward(*self._prompts(prompts, slots))

    def prefill_states(
        self, prompts: Sequence[Sequence[int]], slots: Sequence[Sequence[int]], states: int
    ) -> tuple[Tensor, Tensor]:
        """As `prefill`, and the last hidden states of each prompt (prompts, states, d), newest first; those
        of a shorter prompt are filled up with zeros."""
        ids, mask, positions = self._prompts(prompts, slots)
        hidden = self.parts.run(self.parts.embed(ids), positions=positions, mask=mask, cache=self.cache)
        last = hidden[:, -states:].flip(1)
        if mask is not None:
            last = last * mask[:, -states:].flip(1)[..., None].to(last.dtype)
        missing = states - last.shape[1]
        return self.parts.head(hidden[:, -1]).float(), F.pad(last, (0, 0, 0, missing))

    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Feed one token to each of the first rows, at its position; logits (rows, V)."""
        ids = torch.tensor(tokens, device=self.device)
        return self._forward(ids[:, None], *self._next(positions))

    def feed(self, x: Tensor, positions: Sequence[int], *, head: bool) -> tuple[Tensor, Tensor | None]:
        """Feed one vector (rows, d) to each of the first rows, at its position; its hidden state (rows, d)
        and, with `head`, the logits (rows, V)."""
        mask, at = self._next(positions)
        hidden = self.parts.run(x[:, None], positions=at, mask=mask, cache=self.cache)[:, 0]
        return hidden, self.parts.head(hidden).float() if head else None

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """What `step` feeds for these tokens: (tokens, d)."""
        return self.parts.embed(torch.tensor(tokens, device=self.device))

    def _prompts(
        self, prompts: Sequence[Sequence[int]], slots: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Left-padded ids, mask (None: no padding) and positions; the cache is told where they go."""
        lengths = [len(p) for p in prompts]
        width = max(lengths)
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths], device=self.device)
        positions = (mask.cumsum(-1) - 1).clamp_(min=0)
        self.cache.prefill_into(slots, lengths, width)
        return ids, None if min(lengths) == width else mask, positions

    def _next(self, positions: Sequence[int]) -> tuple[Any, Tensor]:
        """Mask (None: all rows see all columns) and positions (rows, 1) of a step; the cache is told."""
        width = max(positions) + 1
        at = torch.tensor(positions, device=self.device)
        self.cache.step_at(at, width)
        return None if min(positions) == width - 1 else self._masks(at, width), at[:, None]

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
