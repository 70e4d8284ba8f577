"""Attempts for the tests of rewards."""

from __future__ import annotations

from typing import Any

from jobs.grade.rewards.protocol import Attempt
from jobs.grade.rewards.view import Frame, View
from latentctl.spec.latent import LatentSpec

THINK = ("<think>", "</think>")


def attempt(text: str, gold: str = "5", **said: Any) -> Attempt:
    return Attempt(**{"text": text, "gold": gold, "meta": {}, "markers": THINK, **said})


def view(
    text: str, gold: str = "5", *, form: str = "plain", latent: LatentSpec | None = None, **said: Any
) -> View:
    return View(attempt(text, gold, **said), Frame(form, latent))


def latent(markers: str = "think", start: str = "prompt", **stop: Any) -> LatentSpec:
    """Settled settings."""
    return LatentSpec.model_validate(
        {
            "input": "soft",
            "markers": markers,
            "start": start,
            "stop": stop or {"end_marker": True, "max_len": 100},
        }
    )
