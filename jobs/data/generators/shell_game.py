"""The shell game: a ball lies under one of some cups, pairs of cups are swapped, where is it now?

Easy with the position written down after each swap, hard without: a small test of whether reasoning steps
matter.
"""

from __future__ import annotations

import random

from pydantic import Field

from jobs.data.example import Example
from jobs.data.registry import Generator, register
from latentctl.spec.base import Spec


class Options(Spec):
    """Settings of `shell-game`."""

    cups: int = Field(default=5, ge=2, le=20)
    """How many cups."""
    swaps: int = Field(default=8, ge=1, le=64)
    """How many random swaps of two cups."""


def draw(rng: random.Random, options: Options) -> tuple[str, Example]:
    """One game. The steps name the ball's cup after each swap."""
    ball = start = rng.randint(1, options.cups)
    swaps, steps = [], []
    for _ in range(options.swaps):
        a, b = sorted(rng.sample(range(1, options.cups + 1), 2))
        ball = {a: b, b: a}.get(ball, ball)
        swaps.append(f"Swap {a} {b}.")
        steps.append(f"Swap {a} {b}: cup {ball}")
    game = f"The ball is under cup {start}. {' '.join(swaps)}"
    example = Example("", f"{game} Where is the ball?", str(ball), tuple(steps), {"cups": options.cups})
    return f"{options.cups} {game}", example


register(
    Generator(
        "shell-game",
        "a ball under one of some cups, random swaps: where is it?",
        grader="exact",
        instruction="The answer is the number of the cup.",
        options=Options,
        draw=draw,
    )
)
