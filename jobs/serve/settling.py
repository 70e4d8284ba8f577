"""Latent settings as a server needs them: settled, and with a number where an evaluation would count."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from jobs.models.latent_settings import settle
from jobs.runtime.errors import JobUserError
from latentctl.spec.latent import LatentSpec
from latentctl.spec.prompt import PromptSpec


def settled(said: LatentSpec | None, carried: dict[str, Any], *, where: str = "latent") -> LatentSpec | None:
    """`said` over what the checkpoint carries; None for text alone. Raises JobUserError in words.

    `stop.per_step` counts a problem's reference steps, which a question from outside does not have: its cap
    stands for them, which is what a problem with that many steps, or more, gets.
    """
    prompt = PromptSpec.model_validate(carried.get("prompt") or {})
    try:
        spec = settle(said, carried, prompt.markers, where=where)
    except ValidationError as error:
        raise JobUserError(
            f"these settings and the checkpoint's do not go together: {error.errors()[0]['msg']}",
            hint="say the parts that clash: what is said wins",
            where=where,
        ) from error
    if spec is None or spec.stop is None or spec.stop.per_step is None:
        return spec
    count = spec.stop.per_step
    if count.cap is None:
        raise JobUserError(
            "per_step counts latent steps from a problem's reference steps, and a question has none",
            hint="give a number instead, such as stop: 6",
            where=f"{where}.stop.per_step",
        )
    stop = spec.stop.model_copy(update={"per_step": None, "fixed": count.cap * count.latents})
    return spec.model_copy(update={"stop": stop})
