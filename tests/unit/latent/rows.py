"""Rows and naive recomputations for the tests of latent steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.latent.knobs import Knobs, Row
from jobs.latent.state import State
from latentctl.spec.latent import LatentSpec, SoftInput

END = (7, 8)
START = (5, 5, 6)


def row(
    input: Any = "soft",
    *,
    end: tuple[int, ...] = END,
    begin: tuple[int, ...] = START,
    fixed: int | None = None,
    token: int | None = 3,
    key: int = 1,
    trace: int | None = None,
    **spec: Any,
) -> Row:
    """A settled row; `stop` unsaid never ends before 1000 steps."""
    said = {"input": input, "markers": "think", "start": "prompt", "stop": {"max_len": 1000}, **spec}
    return Row(LatentSpec(**said), end, begin, fixed, token, key, trace)


def many(one: Row, count: int, *, seed: int = 0) -> Knobs:
    """So many samples of one row's settings, each with a key of its own."""
    knobs = Knobs.of([one]).take(torch.zeros(count, dtype=torch.long))
    return knobs._replace(key=torch.arange(count) + seed * 1_000_003)


def soft_knobs(n: int = 1, trace: int | None = 0, **settings: Any) -> Knobs:
    """n rows of a soft input; traced, so that mass and entropy are there."""
    return Knobs.of([row({"kind": "soft", **settings}, trace=trace) for _ in range(n)])


def begun(knobs: Knobs, width: int = 4) -> State:
    """Right after a prompt of one position."""
    n = len(knobs.kind)
    return State.start(knobs, torch.zeros(n, 0, width), torch.zeros(n, dtype=torch.int64))


def naive(logits: Tensor, spec: SoftInput) -> tuple[np.ndarray, float, float]:
    """Weights over all tokens, entropy and kept mass of one row (V,): float64, a full sort, one filter after
    the other."""
    scaled = logits.double().numpy() / spec.temperature
    full = np.exp(scaled - scaled.max())
    full /= full.sum()
    entropy = -sum(p * np.log(p) for p in full if p > 0)
    probs = full.copy()
    order = sorted(range(len(probs)), key=lambda i: (-scaled[i], i))
    if spec.top_k:
        probs[order[spec.top_k :]] = 0
        probs /= probs.sum()
    if spec.top_p < 1:
        total, place = 0.0, 0
        while place < len(order) and total < spec.top_p:
            total += probs[order[place]]
            place += 1
        probs[order[place:]] = 0
        probs /= probs.sum()
    probs[probs < spec.min_p * probs.max()] = 0
    if spec.max_topk:
        probs[order[spec.max_topk :]] = 0
    mass = float(full[probs > 0].sum())
    return probs / probs.sum(), float(entropy), mass
