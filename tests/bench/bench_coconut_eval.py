"""Coconut evaluation against decoding one prompt after another, as the reference implementation does it.

`python tests/bench/bench_coconut_eval.py [--rounds 3]`. GPT-2 shape S (4 layers, d 256, vocabulary 2,048;
random weights), questions of 36 to 84 tokens, six latent steps, 64 greedy tokens each. The arm `one by one`
holds one prompt at a time, reuses keys and values while it takes the latent steps, and then runs the whole
sequence of embeddings again for every token of text (method card A7). It is strictly sequential, so where
`--reference` is below the number of prompts it runs on that many of them, spread over the lengths, and its
time is scaled. Rounds are interleaved, ratios are formed inside each round, on CPU time of the process, one
thread.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from typing import Any

import torch
import transformers
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from jobs.generate.protocol import Request, Thoughts
from jobs.generate.transformers_engine import TransformersEngine
from latentctl.spec.latent import LatentSpec
from latentctl.spec.sampling import SamplingSpec

VOCAB = 2048
START, END = VOCAB - 3, VOCAB - 2
LATENTS, NEW = 6, 64
TARGETS = {32: 17.0, 512: 25.0}


NO_ENDS: dict[str, Any] = {"eos_token_id": None, "bos_token_id": None}


class Letters:
    """A tokenizer is asked for nothing here but the text of an answer."""

    eos_token_id = None

    def decode(self, ids: list[int], **_: Any) -> str:
        return "x" * len(ids)


def shape_s() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=256,
        n_layer=4,
        n_head=4,
        n_positions=1024,
        **NO_ENDS,
    )
    return GPT2LMHeadModel(config).eval()


def questions(count: int) -> list[list[int]]:
    rng = random.Random(7)
    return [[*(rng.randrange(START) for _ in range(rng.randint(36, 84))), START] for _ in range(count)]


@torch.no_grad()
def one_by_one(lm: Any, prompts: list[list[int]]) -> list[list[int]]:
    embed = lm.get_input_embeddings()
    answers = []
    for prompt in prompts:
        given = embed(torch.tensor([prompt]))
        cache = DynamicCache(config=lm.config)
        x, inputs = given, [given]
        for _ in range(LATENTS):
            out = lm(inputs_embeds=x, past_key_values=cache, use_cache=True, output_hidden_states=True)
            x = out.hidden_states[-1][:, -1:]
            inputs.append(x)
        sequence = torch.cat([*inputs, embed(torch.tensor([[END]]))], 1)
        answer: list[int] = []
        for _ in range(NEW):
            answer.append(int(lm(inputs_embeds=sequence).logits[0, -1].argmax()))
            sequence = torch.cat([sequence, embed(torch.tensor([answer[-1:]]))], 1)
        answers.append(answer)
    return answers


def ours(lm: Any, prompts: list[list[int]], batch: int) -> list[list[int]]:
    spec = LatentSpec.model_validate(
        {"input": "hidden", "markers": "coconut", "start": "prompt", "stop": LATENTS}
    )
    thoughts = Thoughts(spec, (START,), (END,), fixed=LATENTS)
    sampling = SamplingSpec(max_new_tokens=LATENTS + 1 + NEW)
    engine = TransformersEngine(lm, Letters(), max_batch=batch, max_batch_tokens=2**30)
    asked = [Request(str(i), 0, ids, sampling, thoughts=thoughts) for i, ids in enumerate(prompts)]
    found = {int(s.id): s.ids[1:] for s in engine.generate(asked)}
    return [found[i] for i in range(len(prompts))]


def compare(lm: Any, count: int, reference: int, batch: int, rounds: int) -> dict[str, Any]:
    prompts = questions(count)
    by_length = sorted(range(count), key=lambda i: len(prompts[i]))
    some = by_length[:: max(1, count // reference)][:reference]
    share = [prompts[i] for i in some]
    want, got = one_by_one(lm, share), ours(lm, prompts, batch)  # warm-up
    same = sum(got[i] == answer for i, answer in zip(some, want, strict=True)) / len(some)
    ratios, spent = [], dict[str, float]()
    for turn in range(rounds):
        for arm in (("theirs", "ours"), ("ours", "theirs"))[turn % 2]:
            begin = time.process_time()
            one_by_one(lm, share) if arm == "theirs" else ours(lm, prompts, batch)
            spent[arm] = time.process_time() - begin
        ratios.append(spent["theirs"] * count / len(share) / spent["ours"])
    return {
        "prompts": count,
        "reference_prompts": len(share),
        "batch": batch,
        "times_faster": round(statistics.median(ratios), 2),
        "low": round(min(ratios), 2),
        "high": round(max(ratios), 2),
        "same_answers": round(same, 3),
        "prompts_per_cpu_s": round(count / spent["ours"], 1),
        "target": TARGETS.get(count),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, nargs="+", default=[32, 512])
    parser.add_argument("--reference", type=int, default=16, help="prompts that the sequential arm runs")
    parser.add_argument("--batch", type=int, default=128)
    said = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    lm = shape_s()
    for count in said.prompts:
        print(json.dumps(compare(lm, count, min(count, said.reference), said.batch, said.rounds)), flush=True)


if __name__ == "__main__":
    main()
