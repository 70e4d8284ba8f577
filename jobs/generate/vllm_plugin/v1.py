"""Latent steps in vLLM's V1 model runner: its input embeddings and its sampler's tokens, nothing else.

The runner is that of CPUs, and of GPUs where V2 is switched off. Each method here stands in for one of the
runner's own and calls it; `compat` checks that they are as they were when this was written.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from jobs.generate.vllm_plugin.rpc import LatentCalls
from jobs.generate.vllm_plugin.setup import unfit
from jobs.generate.vllm_plugin.slots import Part, Slots
from jobs.generate.vllm_plugin.table import table
from jobs.generate.vllm_plugin.wire import asked, unpack


class LatentRunner(GPUModelRunner):
    """Stands before a V1 runner in the order of classes; see `latent_worker`."""

    latent: Slots
    latent_parts: tuple[Part, ...]
    latent_hidden: tuple[Tensor, Tensor] | None

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        if reason := unfit(self.vllm_config):
            raise ValueError(reason)
        if not self.enable_prompt_embeds:
            raise ValueError("latent steps in vLLM's V1 runner need enable_prompt_embeds")
        super().load_model(*args, **kwargs)
        embedding, mix = table(self.model)
        self.latent = Slots(self.max_num_reqs, self.inputs_embeds_size, embedding, mix=mix)
        self.latent_parts, self.latent_hidden = (), None

    def _update_states(self, scheduler_output: Any) -> Any:
        corrections = super()._update_states(scheduler_output)
        for id in sorted(scheduler_output.finished_req_ids):  # in one order on every rank
            self.latent.leave(id)
        for new in scheduler_output.scheduled_new_reqs:
            if (said := asked(new.sampling_params)) is not None:
                self.latent.enter(new.req_id, unpack(said), prompt=len(new.prompt_token_ids or ()))
        again = scheduler_output.scheduled_cached_reqs
        for id, outputs in zip(again.req_ids, again.num_output_tokens, strict=True):
            if id in again.resumed_req_ids and id in self.latent:
                self.latent.resume(id, outputs)
        return corrections

    def _preprocess(
        self, scheduler_output: Any, num_input_tokens: int, intermediate_tensors: Any = None
    ) -> Any:
        found = super()._preprocess(scheduler_output, num_input_tokens, intermediate_tensors)
        self.latent_parts = self._latent_parts(scheduler_output) if self.latent else ()
        if self.latent_parts:
            assert found[1] is not None, "`load_model` asks for embeddings"
            self.latent.feed(found[1], self.latent_parts)
        return found

    def _latent_parts(self, scheduler_output: Any) -> tuple[Part, ...]:
        batch, counts = self.input_batch, scheduler_output.num_scheduled_tokens
        return tuple(
            Part(
                id,
                row,
                int(self.query_start_loc.np[row]),
                int(batch.num_computed_tokens_cpu[row]),
                counts[id],
                not self.discard_request_mask.np[row],
            )
            for row, id in enumerate(batch.req_ids)
            if id in self.latent
        )

    def sample_tokens(self, grammar_output: Any) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        state = self.execute_model_state
        self.latent_hidden = state and (state.sample_hidden_states, state.hidden_states)
        return super().sample_tokens(grammar_output)

    def _sample(self, logits: Any, spec_decode_metadata: Any) -> Any:
        if not self.latent_parts or self.latent_hidden is None or logits is None:
            return super()._sample(logits, spec_decode_metadata)
        last, every = self.latent_hidden
        metadata = self.input_batch.sampling_metadata
        scored = metadata.max_num_logprobs is not None or bool(metadata.logprob_token_ids)
        made = self.latent.decide(logits, last, self.latent_parts, every=every, scored=scored)
        out = super()._sample(logits, spec_decode_metadata)  # may write into the logits
        if made is not None:
            told = out.logprobs_tensors
            logps = None if told is None else (told.logprob_token_ids[:, 0], told.logprobs[:, 0])
            self.latent.settle(made, out.sampled_token_ids[:, 0], logps)
        return out


class LatentWorker(LatentCalls):
    """Stands before a worker of vLLM's in the order of classes.

    vLLM's workers make their runner by name, so its class is exchanged before it has done anything.
    """

    def init_device(self) -> None:
        super().init_device()  # type: ignore[misc]
        runner = self.model_runner
        if not self.use_v2_model_runner:  # type: ignore[attr-defined]
            base = type(runner)
            runner.__class__ = type(f"Latent{base.__name__}", (LatentRunner, base), {})
