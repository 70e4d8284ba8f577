"""From settled latent settings to what a request carries, and whether a prompt fits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.generate.protocol import Thoughts
from jobs.runtime.errors import JobUserError
from latentctl.spec.latent import LATENT_TOKEN, ContextualInput, LatentSpec, StopSpec
from latentctl.spec.sampling import SamplingSpec


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


def misfit(asked: Thoughts, ids: Sequence[int], sampling: SamplingSpec, vocabulary: int) -> str | None:
    """Why a prompt of these token ids cannot be served with these settings, in words; None if it can."""
    spec = asked.spec
    if spec.input is None or spec.stop is None or spec.start is None or spec.input.kind == "none":
        return "latent settings must say input, start and stop"
    for name, marker in (("start", asked.start), ("end", asked.end)):
        if not marker:
            return f"the {name} marker has no tokens"
        if wrong := [i for i in marker if not 0 <= i < vocabulary]:
            return f"the {name} marker has token {wrong[0]}, the model knows 0 to {vocabulary - 1}"
    if spec.start == "prompt" and tuple(ids[-len(asked.start) :]) != asked.start:
        return "latent.start is prompt, but the prompt does not end with the start marker"
    if spec.input.kind == "pause" and (asked.token is None or not 0 <= asked.token < vocabulary):
        return f"the input pause feeds the token {LATENT_TOKEN}, which the model does not have"
    if isinstance(spec.input, ContextualInput) and spec.input.weights == "learned":
        return (
            "learned window weights are a list by the time that they are decoded: take the checkpoint's own"
        )
    if asked.fixed is None and spec.stop.max_len is None:
        return "nothing ends a latent span: give stop.max_len or a count"
    if sampling.max_think_tokens is not None:
        return (
            f"max_think_tokens ({sampling.max_think_tokens}) bounds reasoning in words; "
            "latent spans are bounded by latent.stop.max_len"
        )
    steps = last_step(asked)
    counted = not spec.stop.end_marker and spec.stop.entropy is None
    if counted and spec.start == "prompt" and steps + len(asked.end) >= sampling.max_new_tokens:
        return (
            f"{steps} latent steps and {len(asked.end)} tokens of the end marker leave no room for an answer "
            f"within max_new_tokens ({sampling.max_new_tokens})"
        )
    return None


def last_step(asked: Thoughts) -> int:
    """A span has so many latent steps at most."""
    assert asked.spec.stop is not None, "not settled"
    bounds = [n for n in (asked.fixed, asked.spec.stop.max_len) if n is not None]
    return min(bounds)


def window(asked: Thoughts) -> int:
    """The first latent step looks at so many of the prompt's hidden states at most."""
    return asked.spec.input.window if isinstance(asked.spec.input, ContextualInput) else 1
