"""A small model that learns to count through thoughts, and requests for every kind of input and stop rule."""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jobs.generate.protocol import Request, Thoughts
from latentctl.spec.latent import LatentSpec
from latentctl.spec.sampling import SamplingSpec

COUNT = 24
"""Numbers 0 to 23, in a circle."""
START, END = (24, 25), (26, 27)
PAUSE, EOS, VOCAB = 28, 29, 30

INPUTS: dict[str, Any] = {
    "soft": {"kind": "soft", "temperature": 0.8, "top_k": 12, "top_p": 0.95, "min_p": 0.01, "max_topk": 8},
    "exact": {"kind": "soft", "temperature": 1.2, "top_p": 1.0, "max_topk": None},
    "noisy": {"kind": "soft", "temperature": 1.0, "top_p": 0.99},
    "hidden": "hidden",
    "contextual": {"kind": "contextual", "window": 3, "weights": [0.6, 0.3, 0.1], "rescale": True},
    "pause": "pause",
}
STOPS: dict[str, tuple[str, Any]] = {
    "none": ("prompt", 0),
    "fixed": ("prompt", 5),
    "marker": ("prompt", {"end_marker": True, "max_len": 9}),
    "entropy": ("prompt", {"entropy": {"threshold": 0.4, "patience": 3, "on": "model"}, "max_len": 8}),
    "max_len": ("prompt", {"end_marker": True, "max_len": 2}),
    "model": ("model", {"end_marker": True, "max_len": 6}),
}


def goes_on(now: int, thinks: bool, length: int) -> list[int]:
    """What follows the number `now`: the numbers count up. In text one that is 3 modulo 8 opens a thought, in
    which they count on until a multiple of 5 closes it; text that reaches 15 ends."""
    out: list[int] = []
    while len(out) < length:
        now = (now + 1) % COUNT
        out.append(now)
        if thinks and now % 5 == 0:
            out += END
            thinks = False
        elif not thinks and now % 8 == 3:
            out += START
            thinks = True
        elif not thinks and now == 15:
            return [*out, EOS]
    return out[:length]


def prompt(rng: random.Random, thinks: bool) -> tuple[list[int], int]:
    """Some numbers, with a start marker after them where the answer begins with a thought; the last one."""
    last = rng.choice([n for n in range(COUNT) if n % 8 != 3 and n != 15])
    numbers = [(last - i) % COUNT for i in reversed(range(rng.randint(1, 18)))]
    return [*numbers, *START] if thinks else numbers, last


def learned(*, width: int = 48, heads: int = 4) -> LlamaForCausalLM:
    """Seconds on a CPU."""
    torch.manual_seed(0)
    rng = random.Random(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=128,
        initializer_range=width**-0.5,
        eos_token_id=EOS,
        bos_token_id=None,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(200):
        asked = [(*prompt(rng, thinks), thinks) for thinks in [True, False] * 12]
        rows = [(ids, goes_on(last, thinks, 24)) for ids, last, thinks in asked]
        width = max(len(p) + len(a) for p, a in rows)
        ids = torch.tensor([[*p, *a] + [EOS] * (width - len(p) - len(a)) for p, a in rows])
        labels = torch.full_like(ids, -100)
        for i, (p, a) in enumerate(rows):
            labels[i, len(p) : len(p) + len(a)] = ids[i, len(p) : len(p) + len(a)]
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def requests(kind: str) -> list[Request]:
    """Three problems of unlike lengths for every stop rule."""
    rng = random.Random(kind)
    noise = {"kind": "concrete", "temperature": 0.5} if kind == "noisy" else None
    out = []
    for stop, (start, rule) in STOPS.items():
        spec = LatentSpec.model_validate(
            {"input": INPUTS[kind], "stop": rule, "start": start, "markers": "think", "noise": noise}
        )
        assert spec.stop is not None
        asked = Thoughts(spec, START, END, token=PAUSE, fixed=spec.stop.fixed)
        for i in range(3):
            ids, _ = prompt(rng, start == "prompt")
            sampling = SamplingSpec(max_new_tokens=rng.randint(16, 24))
            out.append(Request(f"{stop}{i}", 0, ids, sampling, thoughts=asked))
    return out
