"""From settled latent settings to what a request carries."""

from __future__ import annotations

from typing import Any

from jobs.generate.protocol import Thoughts
from jobs.runtime.errors import JobUserError
from latentctl.spec.latent import LATENT_TOKEN, LatentSpec, StopSpec


def marker_ids(tokenizer: Any, text: str, where: str) -> tuple[int, ...]:
    """Token ids of a marker's text. Raises JobUserError where the tokenizer has none for it."""
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids or tokenizer.unk_token_id in ids:
        raise JobUserError(
            f"the tokenizer does not know the marker {text!r}",
            hint="use a checkpoint that was trained with it, or markers whose text the tokenizer knows",
            where=where,
        )
    return ids


def count(stop: StopSpec, steps: int) -> int | None:
    """So many latent steps for a problem with `steps` reference steps; None where no rule counts."""
    if stop.per_step is None:
        return stop.fixed
    cap = steps if stop.per_step.cap is None else min(steps, stop.per_step.cap)
    return cap * stop.per_step.latents


def thoughts(
    spec: LatentSpec, tokenizer: Any, *, steps: int = 0, trace: int | None = None, where: str = "latent"
) -> Thoughts:
    """`spec` as `jobs.models.latent_settings.settle` gives it; `steps`: the problem's reference steps."""
    assert spec.markers is not None, "not settled"
    assert spec.stop is not None, "not settled"
    assert spec.input is not None, "not settled"
    token = tokenizer.convert_tokens_to_ids(LATENT_TOKEN)
    if token == tokenizer.unk_token_id:
        token = None
    if spec.input.kind == "pause" and token is None:
        raise JobUserError(
            f"the input pause feeds the token {LATENT_TOKEN}, which the tokenizer does not have",
            hint="evaluate a checkpoint that was trained with latent.input: pause",
            where=f"{where}.input",
        )
    return Thoughts(
        spec,
        marker_ids(tokenizer, spec.markers.start, f"{where}.markers.start"),
        marker_ids(tokenizer, spec.markers.end, f"{where}.markers.end"),
        token,
        count(spec.stop, steps),
        trace,
    )
