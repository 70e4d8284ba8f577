"""The recipe's `latent` block and a checkpoint's `latent.json`, put together."""

from __future__ import annotations

from typing import Any

from jobs.runtime.errors import JobUserError
from latentctl.spec.latent import LatentSpec
from latentctl.spec.prompt import Markers

PARTS = ("input", "markers", "start", "stop", "noise")
"""Keys of `latent.json` that are parts of a LatentSpec."""


def settle(
    recipe: LatentSpec | None, carried: dict[str, Any] | None, markers: Markers, *, where: str = "latent"
) -> LatentSpec | None:
    """Latent settings with input, markers, start and stop all said, or None for text alone.

    What the recipe says wins, part by part; then the checkpoint's `latent.json` (`carried`); then `markers`
    (those of the prompt) and `start: prompt`. Raises JobUserError where the recipe asks for latent steps and
    nobody says of which kind, or when they end.
    """
    held = LatentSpec.model_validate({k: v for k, v in (carried or {}).items() if k in PARTS})
    said = recipe or LatentSpec()
    merged = LatentSpec(
        **{k: own if (own := getattr(said, k)) is not None else getattr(held, k) for k in PARTS}
    )
    if merged.input is None:
        if recipe is None:
            return None
        raise JobUserError(
            "latent steps are asked for, but neither the recipe nor the checkpoint says of which kind",
            hint="add input: soft, hidden, contextual or pause (none: text alone)",
            where=f"{where}.input",
        )
    if merged.input.kind == "none":
        return None
    if merged.stop is None:
        raise JobUserError(
            "neither the recipe nor the checkpoint says when a latent span ends",
            hint="add stop, such as stop: 6, or stop: {end_marker: true, max_len: 800}",
            where=f"{where}.stop",
        )
    return merged.model_copy(update={"markers": merged.markers or markers, "start": merged.start or "prompt"})
