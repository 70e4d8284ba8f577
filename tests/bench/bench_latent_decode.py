"""Latent decoding against our own greedy loop, and that against a loop written by hand.

`python tests/bench/bench_latent_decode.py [--rounds 7]`. A GPT-2 of four layers (d 256) with the vocabulary
of Qwen3 (151,936); its last norm is scaled so that the nucleus (top-p 0.95 at temperature 0.6) holds about
so many tokens as `--nucleus` says, and further until that of every latent step lies within `max_topk`.
`soft`: every step mixes the nucleus (`max_topk` 30), ends at the end
marker or after `--steps`. `flat`: the same with `max_topk: null` on a distribution whose nucleus holds
about 20,000 tokens; it is reported, without a target. Rounds are interleaved in changing order, ratios are
formed inside each round, on CPU time of the process, one thread; the median counts, with the lowest and
highest.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from jobs.generate.protocol import Request, Sample, Thoughts
from jobs.generate.transformers_engine import TransformersEngine
from latentctl.spec.latent import LatentSpec
from latentctl.spec.sampling import SamplingSpec

VOCAB = 151_936
START, END = 7, 8
TEMPERATURE, TOP_P = 0.6, 0.95
TARGETS = {"greedy/hand": 1.05, "soft/greedy": 1.12}


NO_ENDS: dict[str, Any] = {"eos_token_id": None, "bos_token_id": None}


class Letters:
    """A tokenizer is asked for nothing here but the text of an answer."""

    eos_token_id = None

    def decode(self, ids: list[int], **_: Any) -> str:
        return "x" * len(ids)


def model(nucleus: int, vocab: int = VOCAB) -> GPT2LMHeadModel:
    """Random weights, with a nucleus of about this size after random prompts."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocab,
        n_embd=256,
        n_layer=4,
        n_head=4,
        n_positions=1024,
        **NO_ENDS,
    )
    made = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        logits = made(torch.randint(0, vocab, (8, 20)), logits_to_keep=1).logits[:, -1].double()
        low, high = 0.01, 1000.0
        for _ in range(30):
            scale = (low * high) ** 0.5
            probs = (logits * scale / TEMPERATURE).softmax(-1).sort(-1, descending=True).values
            size = (probs.cumsum(-1) - probs < TOP_P).sum(-1).median()
            low, high = (scale, high) if size > nucleus else (low, scale)
        made.transformer.ln_f.weight.mul_(low)
    return made


@torch.no_grad()
def hand(lm: Any, prompts: Tensor, steps: int) -> Tensor:
    """Greedy tokens (rows, steps): what a researcher writes for prompts of equal length."""
    cache = DynamicCache(config=lm.config)
    logits = lm(prompts, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    tokens = [logits[:, -1].argmax(-1)]
    for _ in range(steps - 1):
        logits = lm(tokens[-1][:, None], past_key_values=cache, use_cache=True).logits
        tokens.append(logits[:, -1].argmax(-1))
    return torch.stack(tokens, 1)


def soft(max_topk: int | None, steps: int, trace: int | None = None) -> Thoughts:
    spec = LatentSpec.model_validate(
        {
            "input": {"kind": "soft", "temperature": TEMPERATURE, "top_p": TOP_P, "max_topk": max_topk},
            "markers": "think",
            "start": "prompt",
            "stop": {"end_marker": True, "max_len": steps + 1},
        }
    )
    return Thoughts(spec, (START,), (END,), trace=trace)


def ours(engine: TransformersEngine, prompts: Tensor, steps: int, thoughts: Thoughts | None) -> list[Sample]:
    """`steps` positions for each prompt: tokens, or latent steps."""
    sampling = SamplingSpec(max_new_tokens=steps)
    asked = [Request(str(i), 0, ids, sampling, thoughts=thoughts) for i, ids in enumerate(prompts.tolist())]
    samples = sorted(engine.generate(asked), key=lambda s: int(s.id))
    assert not any(s.error for s in samples), samples[0].error
    return samples


def cpu(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def rounds_of(arms: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each arm in each round, after one round that does not count."""
    rng = random.Random(0)
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name in rng.sample(list(arms), len(arms)):
            seconds = cpu(arms[name])
            if turn:
                spent[name].append(seconds)
    return spent


def ratio(spent: dict[str, list[float]], over: str, under: str) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(spent[over], spent[under], strict=True)]
    figures = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return {"ratio": f"{over}/{under}"} | {k: round(v, 3) for k, v in figures.items()}


def measured(lm: Any, batch: int, steps: int, rounds: int, max_topk: int | None) -> list[dict[str, Any]]:
    torch.manual_seed(batch)
    prompts = torch.randint(10, VOCAB, (batch, 60))
    prompts[:, -1] = START
    engine = TransformersEngine(lm, Letters(), max_batch=batch, max_batch_tokens=2**30)
    arms = {
        "hand": lambda: hand(lm, prompts, steps),
        "greedy": lambda: ours(engine, prompts, steps, None),
        "soft": lambda: ours(engine, prompts, steps, soft(max_topk, steps)),
    }
    asked = soft(max_topk, steps, trace=1)
    while True:
        traced = [t for s in ours(engine, prompts, steps, asked) for t in s.thoughts or ()]
        within = sum(t.mass >= TOP_P - 1e-4 for t in traced) / len(traced)
        if within == 1 or max_topk is None:
            break
        with torch.no_grad():
            lm.transformer.ln_f.weight.mul_(1.15)  # sharper, until every row's nucleus is mixed whole
    same = [s.ids for s in ours(engine, prompts, steps, None)] == hand(lm, prompts, steps).tolist()
    spent = rounds_of(arms, rounds)
    common = {
        "batch": batch,
        "max_topk": max_topk,
        "same_tokens": same,
        "latent_steps": len(traced),
        "steps_within_max_topk": round(within, 3),
        "greedy_ms_per_step": round(1e3 * statistics.median(spent["greedy"]) / steps, 2),
    }
    return [common | ratio(spent, "greedy", "hand"), common | ratio(spent, "soft", "greedy")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--nucleus", type=int, default=8)
    parser.add_argument("--flat", type=int, default=20_000, help="nucleus of the flat case; 0: leave it out")
    said = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = []
    for batch in said.batches:
        for row in measured(model(said.nucleus), batch, said.steps, said.rounds, 30):
            row["target"] = TARGETS[row["ratio"]]
            rows.append(row)
            print(json.dumps(row), flush=True)
        if said.flat:
            flat = measured(model(said.flat), batch, max(2, said.steps // 4), min(said.rounds, 3), None)[1]
            print(json.dumps(flat | {"flat": True}), flush=True)
    missed = [r for r in rows if r["median"] > r["target"]]
    print(f"{len(rows) - len(missed)} of {len(rows)} reach their target")


if __name__ == "__main__":
    main()
