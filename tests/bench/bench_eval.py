"""Eval engine against a plain `model.generate` loop: tokens per CPU second, same model, batch and lengths.

`python tests/bench/bench_eval.py [--rounds 7]`. Rounds are interleaved and the ratio is formed inside each
one, so that other load on the machine falls on both; the median of the ratios counts. CPU time of the
process, one thread. Targets: at least 1.0 for equal lengths, at least 2 for ragged prompts and ragged
answers (the plain loop pads groups of requests in the order given, and each group runs until its longest
answer ends).
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
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from jobs.generate.protocol import Request
from jobs.generate.transformers_engine import TransformersEngine
from latentctl.spec.sampling import SamplingSpec

VOCAB = 2048
TARGETS = {"equal": 1.0, "ragged": 2.0}


class Letters:
    """A tokenizer is asked for nothing here but the text of an answer."""

    eos_token_id = None

    def decode(self, ids: list[int], **_: Any) -> str:
        return "x" * len(ids)


def models() -> dict[str, Any]:
    """GPT-2 shape S (4 layers, d 256) and a grouped-query Qwen3 of the same size; random weights."""
    torch.manual_seed(0)
    no_ends: dict[str, Any] = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
    gpt2 = GPT2Config(vocab_size=VOCAB, n_embd=256, n_layer=4, n_head=4, n_positions=1024, **no_ends)
    qwen3 = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=768,
        **no_ends,
    )
    return {"gpt2": GPT2LMHeadModel(gpt2).eval(), "qwen3": Qwen3ForCausalLM(qwen3).eval()}


def requests(kind: str, count: int) -> list[Request]:
    """`equal`: prompts of 64 and answers of 64 tokens. `ragged`: prompts 16-256; answers mostly short,
    some long, as those of a model that ends by itself (each request's own limit stands for its end,
    in both arms)."""
    rng = random.Random(0)
    out = []
    for i in range(count):
        prompt = 64 if kind == "equal" else rng.randint(16, 256)
        answer = 64 if kind == "equal" else min(256, 8 + int(rng.expovariate(1 / 40)))
        ids = [rng.randrange(VOCAB) for _ in range(prompt)]
        out.append(Request(str(i), 0, ids, SamplingSpec(max_new_tokens=answer)))
    return out


class Lengths(transformers.StoppingCriteria):
    """Ends each row of the plain loop at its own length."""

    def __init__(self, width: int, answers: list[int]) -> None:
        self.ends = torch.tensor([width + n for n in answers])

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return input_ids.shape[1] >= self.ends


def plain(model: Any, asked: list[Request], batch: int) -> dict[str, list[int]]:
    """What a researcher writes: left-padded groups in the given order through `model.generate`."""
    out: dict[str, list[int]] = {}
    for start in range(0, len(asked), batch):
        group = asked[start : start + batch]
        width = max(len(r.ids) for r in group)
        answers = [r.sampling.max_new_tokens for r in group]
        ids = torch.tensor([[0] * (width - len(r.ids)) + r.ids for r in group])
        mask = torch.tensor([[0] * (width - len(r.ids)) + [1] * len(r.ids) for r in group])
        got = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max(answers),
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=[Lengths(width, answers)],
        )
        for request, row in zip(group, got, strict=True):
            out[request.id] = row[width : width + request.sampling.max_new_tokens].tolist()
    return out


def ours(model: Any, asked: list[Request], batch: int) -> dict[str, list[int]]:
    engine = TransformersEngine(model, Letters(), max_batch=batch, max_batch_tokens=batch * 1024)
    return {s.id: s.ids for s in engine.generate(asked)}


def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    value = call()
    return time.process_time() - begin, value


def compare(model: Any, kind: str, batch: int, rounds: int) -> dict[str, Any]:
    """Median of (tokens per CPU second of ours) / (of the plain loop)."""
    asked = requests(kind, 4 * batch if kind == "ragged" else batch)
    tokens = sum(r.sampling.max_new_tokens for r in asked)
    want, got = plain(model, asked, batch), ours(model, asked, batch)  # warm-up
    same = sum(want[r.id] == got[r.id] for r in asked) / len(asked)
    ratios, speeds = [], []
    for turn in range(rounds):
        arms = [plain, ours] if turn % 2 == 0 else [ours, plain]
        spent = {arm: cpu(lambda arm=arm: arm(model, asked, batch))[0] for arm in arms}
        ratios.append(spent[plain] / spent[ours])
        speeds.append(tokens / spent[ours])
    return {
        "ratio": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "tokens_per_cpu_s": round(statistics.median(speeds)),
        "same_answers": round(same, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    rounds = parser.parse_args().rounds
    batches = parser.parse_args().batches
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = []
    for name, model in models().items():
        for kind, target in TARGETS.items():
            for batch in batches:
                if kind == "ragged" and batch == 1:
                    continue  # one row at a time has nothing to pad
                row = {"model": name, "lengths": kind, "batch": batch, "target": target}
                row |= compare(model, kind, batch, rounds)
                rows.append(row)
                print(json.dumps(row), flush=True)
    missed = [r for r in rows if r["ratio"] < r["target"]]
    print(f"{len(rows) - len(missed)} of {len(rows)} reach their target")


if __name__ == "__main__":
    main()
