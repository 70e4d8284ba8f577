"""Small random models for vLLM, and what the plugin makes of requests: samples and what was fed.

Knows the plugin alone, not the engine around it: outputs are read with the plugin's own account of them.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from jobs.generate.protocol import Request, Sample
from jobs.generate.vllm_plugin import setup, wire
from jobs.latent.noise import request_key

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3")
VOCAB = 128
RECORD = 127
"""Stands in vLLM for a latent position; nothing else here writes it."""
POSITIONS = 256

INPUTS: list[Any] = [
    {"kind": "soft", "temperature": 0.6, "top_p": 0.95},
    {"kind": "soft", "temperature": 1.3, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
    {"kind": "soft", "top_p": 0.9, "min_p": 0.01, "max_topk": 5},
    {"kind": "soft", "max_topk": 64},
    "hidden",
    {"kind": "contextual", "window": 3, "weights": [0.6, 0.3, 0.1]},
    {"kind": "contextual", "window": 1},
    {"kind": "contextual", "window": 4, "weights": "uniform", "include": "latent_only"},
    {"kind": "contextual", "window": 5, "include": "from_start_marker", "rescale": True},
    {"kind": "contextual", "window": 3, "weights": [0.6, 0.3, 0.1], "compat": True},
    "pause",
]


def tiny(family: str, *, scale: float = 1.5) -> PreTrainedModel:
    """A random model of two layers with heads that vLLM's kernels for CPUs know."""
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "intermediate_size": 96,
        "max_position_embeddings": POSITIONS,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    own: dict[str, Any] = {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 2, "n_head": 2}
    own |= {"n_positions": POSITIONS, "eos_token_id": None, "bos_token_id": None}
    grouped = {k: v for k, v in common.items() if k != "head_dim"}
    model: PreTrainedModel = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**own)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**common, tie_word_embeddings=True)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**grouped)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**common)),
    }[family]()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(scale)
        lost = model.get_output_embeddings().weight
        lost[RECORD] = lost[:RECORD].mean(0)  # it is never the likeliest
    return model.eval()


def prompt(rng: random.Random, *tail: int, most: int = 40) -> list[int]:
    return [*(rng.randrange(90) for _ in range(rng.randint(1, most))), *tail]


class Vllm:
    """An engine of vLLM with the plugin."""

    def __init__(self, folder: Path, architecture: str, **arguments: Any) -> None:
        from vllm import LLM

        args: dict[str, Any] = {
            "model": str(folder),
            "skip_tokenizer_init": True,
            "dtype": "float32",
            "max_model_len": POSITIONS,
            "max_num_seqs": 6,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "disable_log_stats": True,
            "kv_cache_memory_bytes": 1 << 26,
            **setup.engine_args([architecture]),
            **arguments,
        }
        self.llm = LLM(**args)

    def call(self, function: Any, *args: Any) -> Any:
        return self.llm.collective_rpc(function, args=args)[0]

    def run(self, requests: list[Request], **also: Any) -> dict[str, tuple[Sample, list[torch.Tensor]]]:
        """By "id/index": the sample, and what its latent steps were fed."""
        from vllm import SamplingParams

        prompts: list[Any] = [{"prompt_token_ids": r.ids} for r in requests]
        params = []
        for r in requests:
            extra = None
            if r.thoughts is not None:
                key = request_key(r.sampling.seed, r.id, r.index)
                extra = {wire.KEY: wire.pack(r.thoughts, key=key, record=RECORD, group=r.id)}
            params.append(
                SamplingParams(
                    temperature=r.sampling.temperature,
                    seed=request_key(r.sampling.seed, r.id, r.index) & (2**63 - 1),
                    max_tokens=r.sampling.max_new_tokens,
                    ignore_eos=True,
                    detokenize=False,
                    logprobs=0,
                    extra_args=extra,
                    **also,
                )
            )
        found = {}
        for request, out in zip(requests, self.llm.generate(prompts, params, use_tqdm=False), strict=True):
            fed: list[Any] = []
            story: dict[str, Any] = {"causes": [], "thoughts": None}
            if request.thoughts is not None:
                fed, story = self.call(_account, [out.request_id])[out.request_id]
            found[f"{request.id}/{request.index}"] = _sample(request, out.outputs[0], fed, story)
        return found

    def facts(self) -> dict[str, Any]:
        return self.call("latent_facts")

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()


def _account(worker: Any, ids: list[str]) -> dict[str, Any]:
    """What each position was fed, and the story that `latent_pop` tells."""
    slots = worker._slots
    names = {id: slots._names[id] for id in ids}
    ledgers = {
        id: (slots._held[n].ledger if n in slots._held else slots._finished[n]) for id, n in names.items()
    }
    fed = {id: _inputs(ledger, slots) for id, ledger in ledgers.items()}
    return {id: (fed[id], story) for id, story in worker.latent_pop(ids).items()}


def _inputs(ledger: Any, slots: Any) -> list[list[float] | None]:
    """What each position of an answer was fed, None where it is a token."""
    count = len(ledger)
    tokens = torch.zeros(count, slots.embedding.shape[-1])
    vectors = ledger.fed(0, count, tokens, slots.embedding, slots.mix)
    return [x.float().tolist() if there else None for x, there in zip(vectors, ledger.latent(), strict=True)]


def _sample(
    request: Request, out: Any, fed: list[Any], story: dict[str, Any]
) -> tuple[Sample, list[torch.Tensor]]:
    ids, logps, spans = [], [], []
    given = [None if x is None else torch.tensor(x) for x in fed]
    for token, logp, x in itertools.zip_longest(out.token_ids, out.logprobs, given):
        if x is None:
            ids.append(token)
            logps.append(logp[token].logprob)
        elif spans and spans[-1][0] == len(ids):
            spans[-1][1] += 1
        else:
            spans.append([len(ids), 1])
    thoughts = story["thoughts"]
    sample = Sample(
        request.id,
        request.index,
        ids,
        logps,
        "length",
        latents=sum(n for _, n in spans),
        latent_cause=story["causes"][-1] if story["causes"] else None,
        spans=tuple((at, n) for at, n in spans),
        thoughts=None if thoughts is None else tuple(_thought(t) for t in thoughts),
    )
    return sample, [x for x in given if x is not None]


def _thought(said: list[Any]) -> Any:
    from jobs.generate.protocol import Thought

    entropy, ids, weights, mass, noised = said
    return Thought(entropy, tuple(ids), tuple(weights), mass, noised)
