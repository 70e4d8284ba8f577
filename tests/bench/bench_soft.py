"""The mixing product of soft thinking alone: what a latent step costs over a greedy one, without the model.

`python tests/bench/bench_soft.py [--rounds 9]`. The base is what every decoding step does anyway: the product
of hidden states with the head (V 151,936, d 256) and the arg-max over it. `mix` is the same product, then
`keep` and `soft` (temperature 0.6, top-p 0.95, at most 30 tokens); `traced` records entropy and mass too;
`exact` has `max_topk: null`. `plain` is no top-p (temperature 1, at most 30 tokens), where no log-sum-exp is
needed. Logits are normal, scaled until the median nucleus is `--nucleus` tokens. A nearly flat distribution
(about 20,000 tokens) with `max_topk: null` is reported apart, without a target. Rounds are interleaved in
changing order and ratios are formed inside each, on CPU time of the process, one thread; the median counts,
with the lowest and highest.
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
from torch import Tensor

from jobs.latent.inputs import soft
from jobs.latent.kept import keep
from jobs.latent.knobs import Knobs, Row
from latentctl.spec.latent import LatentSpec

VOCAB, WIDTH = 151_936, 256
TEMPERATURE, TOP_P = 0.6, 0.95
TARGET = 1.05
"""Of `mix`, `plain` and `exact`; a trace is paid for by whoever asks for one."""
NUCLEUS: dict[str, Any] = {"kind": "soft", "temperature": TEMPERATURE, "top_p": TOP_P}
FORMS: dict[str, tuple[dict[str, Any], int | None]] = {
    "mix": (NUCLEUS, None),
    "plain": ({"kind": "soft"}, None),
    "traced": (NUCLEUS, 10),
    "exact": ({**NUCLEUS, "max_topk": None}, None),
}
"""Input and trace of each contender."""


def knobs(settings: dict[str, Any], trace: int | None, batch: int) -> Knobs:
    spec = LatentSpec.model_validate(
        {"input": settings, "markers": "think", "start": "prompt", "stop": {"max_len": 100}}
    )
    return Knobs.of([Row(spec, (0,), trace=trace)] * batch)


def logits(batch: int, nucleus: int) -> Tensor:
    """(batch, V) with a median nucleus of about so many tokens."""
    base = torch.randn(batch, VOCAB)
    low, high = 0.05, 100.0
    for _ in range(20):
        scale = (low * high) ** 0.5
        probs = (base[:4] * (scale / TEMPERATURE)).softmax(-1).sort(-1, descending=True).values
        size = (probs.cumsum(-1) - probs < TOP_P).sum(-1).median()
        low, high = (scale, high) if size > nucleus else (low, scale)
    return base * high


def mixing(seen: Tensor, embedding: Tensor, own: Knobs) -> Tensor:
    kept = keep(seen, own, own.width)
    return soft(kept.logp.exp(), kept.ids, embedding)


def compare(batch: int, nucleus: int, forms: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """One row for each form, against the greedy base."""
    seen, hidden = logits(batch, nucleus), torch.randn(batch, WIDTH)
    embedding = torch.randn(VOCAB, WIDTH) * 0.02

    def timed(choose: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        """The head's product, then a choice among logits that stand for it: those of random weights would
        have no nucleus of the size wanted."""

        def call() -> Tensor:
            torch.mm(hidden, embedding.T)
            return choose(seen)

        return call

    arms = {"greedy": timed(lambda x: embedding[x.argmax(-1)])}
    for name, (settings, trace) in forms.items():
        own = knobs(settings, trace, batch)
        arms[name] = timed(lambda x, own=own: mixing(x, embedding, own))
    for arm in arms.values():
        arm()
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name in random.sample(list(arms), len(arms)):
            begin = time.process_time()
            arms[name]()
            spent[name].append(time.process_time() - begin)
    rows = []
    for name in forms:
        ratios = [a / b for a, b in zip(spent[name], spent["greedy"], strict=True)]
        rows.append(
            {
                "form": name,
                "batch": batch,
                "nucleus": nucleus,
                "ratio": round(statistics.median(ratios), 3),
                "low": round(min(ratios), 3),
                "high": round(max(ratios), 3),
                "ms": round(statistics.median(spent[name]) * 1e3, 2),
                "greedy_ms": round(statistics.median(spent["greedy"]) * 1e3, 2),
            }
        )
    return rows


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--nucleus", type=int, default=8)
    parser.add_argument("--flat", type=int, default=20_000, help="nucleus of the flat case; 0 leaves it out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    rows = []
    for batch in args.batches:
        for row in compare(batch, args.nucleus, FORMS, args.rounds):
            rows.append(row | {"target": None if row["form"] == "traced" else TARGET})
            print(json.dumps(rows[-1]), flush=True)
    if args.flat:
        for batch in args.batches:
            for row in compare(batch, args.flat, {"exact": FORMS["exact"]}, min(3, args.rounds)):
                print(json.dumps(row | {"form": "flat"}), flush=True)
    aimed = [r for r in rows if r["target"]]
    missed = [r for r in aimed if r["ratio"] > r["target"]]
    print(f"{len(aimed) - len(missed)} of {len(aimed)} reach their target")


if __name__ == "__main__":
    main()
