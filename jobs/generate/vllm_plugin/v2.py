"""Latent steps in vLLM's V2 model runner, through the hooks that it offers to models: a `ModelState` that
gives each position its input, and a sampler around vLLM's own.

The input embeddings are one buffer for all steps, so that CUDA graphs are replayed on the same addresses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.config import CUDAGraphMode
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from jobs.generate.vllm_plugin.setup import unfit
from jobs.generate.vllm_plugin.slots import Part, Slots
from jobs.generate.vllm_plugin.table import table
from jobs.generate.vllm_plugin.wire import asked, unpack


class LatentModelState(DefaultModelState):
    """Of one engine; holds the latent state of its requests."""

    def __init__(self, vllm_config: Any, model: Any, encoder_cache: Any, device: torch.device) -> None:
        if reason := unfit(vllm_config) or _unseen(vllm_config):
            raise ValueError(reason)
        super().__init__(vllm_config, model, encoder_cache, device)
        embedding, mix = table(model)
        width = self.inputs_embeds_size
        self.latent = Slots(self.max_num_reqs, width, embedding, mix=mix)
        self.latent_parts: tuple[Part, ...] = ()
        self._buffer = torch.zeros(self.max_num_tokens, width, dtype=self.dtype, device=device)

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        super().add_request(req_index, new_req_data)
        said = asked(new_req_data.sampling_params)
        if said is not None:
            prompt = new_req_data.prompt_len
            outputs = len(new_req_data.prefill_token_ids) - prompt
            self.latent.enter(new_req_data.req_id, unpack(said), prompt=prompt, outputs=outputs)

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        self.latent.leave(req_id)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        found = super().prepare_inputs(input_batch, req_states)
        count = input_batch.num_tokens
        self._buffer[:count] = self.model.embed_input_ids(input_batch.input_ids[:count])  # type: ignore[operator]
        self.latent_parts = _parts(input_batch, self.latent) if self.latent else ()
        self.model.latent_every = None  # type: ignore[assignment]
        if self.latent_parts:
            self.latent.feed(self._buffer, self.latent_parts)
        return {**found, **self._fed(input_batch.num_tokens_after_padding)}

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        return {**super().prepare_dummy_inputs(num_reqs, num_tokens), **self._fed(num_tokens)}

    def dummy_inputs_embeds(self, num_tokens: int) -> Tensor:
        return self._buffer[:num_tokens]

    def custom_sampler(self, sampler: Any) -> tuple[Any, Any]:
        return LatentSampler(sampler, self), None

    def _fed(self, count: int) -> dict[str, Any]:
        return {"inputs_embeds": self._buffer[:count], "input_ids": None}


class LatentSampler:
    """vLLM's sampler, and what latent requests put in place of its tokens."""

    def __init__(self, inner: Any, state: LatentModelState) -> None:
        self._inner, self._state = inner, state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, logits: Tensor, input_batch: Any) -> Any:
        state, model = self._state, self._state.model
        parts = state.latent_parts
        if not parts:
            return self._inner(logits, input_batch)
        if logits.shape[0] != input_batch.num_reqs:
            raise RuntimeError("latent steps need the logits of all requests on every rank")
        every: Any = model.latent_every
        last: Any = model.latent_last
        scored = self._inner.get_logprobs_dims(input_batch.idx_mapping_np) is not None
        made = state.latent.decide(logits, last, parts, every=every, scored=scored)
        out = self._inner(logits, input_batch)
        if made is not None:
            told = out.logprobs_tensors
            logps = None if told is None else (told.logprob_token_ids[:, 0], told.logprobs[:, 0])
            state.latent.settle(made, out.sampled_token_ids[:, 0], logps)
        return out


def _unseen(config: Any) -> str | None:
    """A graph of the whole forward pass shows no hidden states but the last ones."""
    if config.compilation_config.cudagraph_mode.mixed_mode() == CUDAGraphMode.FULL:
        return "latent steps need prompts outside full CUDA graphs: cudagraph_mode FULL_AND_PIECEWISE"
    return None


def _parts(batch: Any, slots: Slots) -> tuple[Part, ...]:
    done = batch.num_computed_tokens_np[: batch.num_reqs] + batch.num_scheduled_tokens[: batch.num_reqs]
    return tuple(
        Part(
            id,
            row,
            int(batch.query_start_loc_np[row]),
            int(batch.num_computed_tokens_np[row]),
            int(batch.num_scheduled_tokens[row]),
            bool(done[row] >= batch.prefill_len_np[row]),
        )
        for row, id in enumerate(batch.req_ids[: batch.num_reqs])
        if id in slots
    )
