"""The project as a contender of a harness that measures implementations beside one another.

Each function takes a transformers model and gives a function that the harness times; how to run it is in
`tests/bench/README.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def coconut_train(
    lm: Any, ids: dict[str, int], *, schedule: str = "sequential", sweeps: str = "", **_: str
) -> Callable[[dict[str, Any]], Any]:
    """Loss of a Coconut batch {input_ids, labels, attention_mask, position_ids}: the mean cross entropy over
    the labels that are not -100. `ids` names the tokens start, end and latent."""
    from torch.nn import functional

    from jobs.models.feed import make_feed
    from jobs.models.parts import parts
    from jobs.models.unroll import unroll
    from latentctl.spec.latent import HiddenInput

    taken = parts(lm)
    feed = make_feed(HiddenInput(), taken, token=ids["latent"])

    def loss(batch: dict[str, Any]) -> Any:
        latent = batch["input_ids"] == ids["latent"]
        counts = latent.sum(1)
        longest = int(counts.max())
        hidden = unroll(
            taken,
            batch["input_ids"],
            first=int(latent.float().argmax(1).max()) if longest else 0,
            counts=counts,
            longest=longest,
            feed=feed,
            mask=batch["attention_mask"],
            positions=batch["position_ids"],
            schedule="jacobi" if schedule == "jacobi" else "sequential",
            sweeps=int(sweeps) if sweeps else None,
        )
        after = batch["labels"][:, 1:]
        kept = after != -100
        return functional.cross_entropy(taken.head(hidden[:, :-1][kept]).float(), after[kept])

    return loss


def soft_mix(*, max_topk: str = "", **_: str) -> Callable[[Any, Any, float, float], Any]:
    """The mixed input (B, d) of logits (B, V) and the input embedding (V, d) at a temperature and top-p;
    exact at any nucleus unless `max_topk` is given."""
    from jobs.latent.inputs import soft
    from jobs.latent.kept import keep
    from jobs.latent.knobs import Knobs, Row
    from latentctl.spec.latent import LatentSpec, SoftInput, StopSpec

    made: dict[tuple[int, float, float], Knobs] = {}

    def mix(logits: Any, embedding: Any, temperature: float, top_p: float) -> Any:
        asked = (len(logits), temperature, top_p)
        if asked not in made:
            cap = int(max_topk) if max_topk else None
            spec = SoftInput(temperature=temperature, top_p=top_p, max_topk=cap)
            row = Row(LatentSpec(input=spec, start="prompt", stop=StopSpec(max_len=1)), end=(0,))
            made[asked] = Knobs.of([row] * len(logits))
        kept = keep(logits, made[asked], made[asked].width)
        return soft(kept.logp.exp(), kept.ids, embedding)

    return mix
