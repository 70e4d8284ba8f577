"""Latent decoding in vLLM against its own plain sampled decoding, and vLLM against the transformers engine.

`tests/vllm/start .venv/bin/python tests/bench/bench_vllm_decode.py [--rounds 7] [--model DIR]` with vLLM's
CPU build; on a GPU without that script. Without `--model`: random weights in the shape of SmolLM2-135M (30
layers, d 576, vocabulary 49,152). All arms run in one engine with the plugin, each generating `--steps`
positions after prompts of 64 tokens:

* `greedy`, `sampled`: text; the latter with temperature 0.7, top-k 30, top-p 0.95
* `soft`: latent steps that mix what `sampled` draws from; `hidden`: latent steps that feed the hidden state

Rounds are interleaved in changing order, ratios are of rates and are formed inside each round: CPU time of
the process on one thread, or, on a GPU, wall time. The median counts, with the lowest and highest.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

begin = time.perf_counter()
import torch  # noqa: E402
import vllm  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402

IMPORT_S = time.perf_counter() - begin

from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402

from jobs.generate.protocol import Request, Thoughts  # noqa: E402
from jobs.generate.transformers_engine import TransformersEngine  # noqa: E402
from jobs.generate.vllm_plugin import compat, setup, wire  # noqa: E402
from latentctl.spec.latent import LatentSpec  # noqa: E402
from latentctl.spec.sampling import SamplingSpec  # noqa: E402

START, END, RECORD = 7, 8, 9
TEMPERATURE, TOP_K, TOP_P = 0.7, 30, 0.95
CUDA = torch.cuda.is_available()
TARGET = 0.95 if CUDA else 0.90


def shape() -> LlamaForCausalLM:
    """Random weights, sharpened so that a nucleus holds tens of tokens as a trained model's does."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.norm.weight.mul_(8.0)
    return model


def thoughts(kind: str, steps: int) -> Thoughts:
    soft = {"kind": "soft", "temperature": TEMPERATURE, "top_k": TOP_K, "top_p": TOP_P}
    spec = LatentSpec.model_validate(
        {
            "input": soft if kind == "soft" else kind,
            "markers": "think",
            "start": "prompt",
            "stop": {"end_marker": kind == "soft", "max_len": steps + 1},
        }
    )
    return Thoughts(spec, (START,), (END,))


class Arms:
    """One engine, and what it is asked for."""

    def __init__(self, folder: Path, batch: int, steps: int) -> None:
        architectures = AutoConfig.from_pretrained(folder).architectures
        start = time.perf_counter()
        options: dict[str, Any] = {} if CUDA else {"enforce_eager": True, "kv_cache_memory_bytes": 2**30}
        self.llm = LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            dtype="bfloat16" if CUDA else "float32",
            max_model_len=1024,
            max_num_seqs=batch,
            enable_prefix_caching=False,
            disable_log_stats=True,
            **options,
            **setup.engine_args(architectures),
        )
        self.start_s = time.perf_counter() - start
        self.steps = steps

    def prompts(self, batch: int, seed: int) -> list[list[int]]:
        draw = torch.Generator().manual_seed(seed)
        return [[*row[:-1], START] for row in torch.randint(10, 40_000, (batch, 64), generator=draw).tolist()]

    def run(self, kind: str, prompts: list[list[int]]) -> None:
        sampled = {"temperature": TEMPERATURE, "top_k": TOP_K, "top_p": TOP_P} if kind == "sampled" else {}
        params = []
        for i in range(len(prompts)):
            extra = None
            if kind in ("soft", "hidden"):
                extra = {wire.KEY: wire.pack(thoughts(kind, self.steps), key=i, record=RECORD)}
            said: dict[str, Any] = {"temperature": 0.0} | sampled
            params.append(
                SamplingParams(
                    max_tokens=self.steps, ignore_eos=True, detokenize=False, extra_args=extra, **said
                )
            )
        asked: list[Any] = [{"prompt_token_ids": ids} for ids in prompts]
        out = self.llm.generate(asked, params, use_tqdm=False)
        if any(len(o.outputs[0].token_ids) != self.steps for o in out):
            raise RuntimeError(f"{kind}: an answer is shorter than {self.steps} positions")
        if extra is not None and any(set(o.outputs[0].token_ids) != {RECORD} for o in out):
            raise RuntimeError(f"{kind}: not every position is a latent step")


def clock() -> float:
    return time.perf_counter() if CUDA else time.process_time()


def rounds_of(arms: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm in each round, after one round that does not count."""
    rng = random.Random(0)
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name in rng.sample(list(arms), len(arms)):
            now = clock()
            arms[name]()
            if turn:
                spent[name].append(clock() - now)
    return spent


def rate(spent: dict[str, list[float]], over: str, under: str) -> dict[str, Any]:
    """Positions a second of `over`, as a multiple of those of `under`."""
    ratios = [b / a for a, b in zip(spent[over], spent[under], strict=True)]
    figures = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return {"rate": f"{over}/{under}"} | {k: round(v, 3) for k, v in figures.items()}


class Letters:
    """The transformers engine asks a tokenizer for the text of an answer alone."""

    eos_token_id = None

    def decode(self, ids: list[int], **_: Any) -> str:
        return "x" * len(ids)


def transformers_arm(folder: Path, prompts: list[list[int]], steps: int, kind: str) -> Callable[[], Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if CUDA else torch.float32)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    engine = TransformersEngine(
        model.to("cuda" if CUDA else "cpu").eval(), Letters(), max_batch=len(prompts), max_batch_tokens=2**30
    )
    asked = thoughts("soft", steps) if kind == "soft" else None
    sampling = SamplingSpec(max_new_tokens=steps)
    requests = [Request(str(i), 0, ids, sampling, thoughts=asked) for i, ids in enumerate(prompts)]
    return lambda: list(engine.generate(requests))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256] if CUDA else [1, 8, 32])
    parser.add_argument("--steps", type=int, default=256 if CUDA else 32)
    parser.add_argument("--model", type=Path, help="a directory; without it: random weights")
    parser.add_argument("--transformers", type=int, default=2, help="rounds against it; 0: leave it out")
    said = parser.parse_args()
    if not CUDA:
        torch.set_num_threads(1)
    problem, check_s = compat.self_check()
    if problem:
        print(problem, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = said.model or Path(scratch)
        if said.model is None:
            shape().save_pretrained(folder)
        arms = Arms(folder, max(said.batches), said.steps)
        started = {"vllm": vllm.__version__, "import_s": IMPORT_S, "start_s": arms.start_s}
        started["self_check_s"] = check_s
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in started.items()}))
        missed = 0
        for batch in said.batches:
            prompts = arms.prompts(batch, batch)
            kinds = ("greedy", "sampled", "soft", "hidden")
            calls = {kind: partial(arms.run, kind, prompts) for kind in kinds}
            spent = rounds_of(calls, said.rounds)
            each = {k: round(batch * said.steps / statistics.median(v), 1) for k, v in spent.items()}
            print(json.dumps({"batch": batch, "positions_per_s": each}), flush=True)
            for over, under, target in (
                ("soft", "sampled", TARGET),
                ("hidden", "sampled", TARGET),
                ("soft", "greedy", None),
                ("hidden", "greedy", None),
            ):
                row = {"batch": batch} | rate(spent, over, under)
                if target is not None:
                    row["target"] = target
                    missed += row["median"] < target
                print(json.dumps(row), flush=True)
            if said.transformers:
                for kind in ("greedy", "soft"):
                    both = {
                        "vllm": calls[kind],
                        "transformers": transformers_arm(folder, prompts, said.steps, kind),
                    }
                    against = rate(rounds_of(both, said.transformers), "vllm", "transformers")
                    print(json.dumps({"batch": batch, "arm": kind} | against), flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
