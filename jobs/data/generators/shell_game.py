"""The shell game: a ball lies under one of some cups, pairs of cups are swapped, where is it now?

Easy with the position written down after each swap, hard without: a small test of whether reasoning steps
matter.
"""

from __future__ import annotations

import random
from string import ascii_uppercase

from pydantic import Field

from jobs.data.example import Example
from jobs.data.registry import Generator, register
from latentctl.spec.base import Spec


class Options(Spec):
    """Settings of `shell-game`."""

    cups: int = Field(default=5, ge=2, le=20)
    """How many cups; they are called A, B, C, ..."""
    swaps: int = Field(default=8, ge=1, le=64)
    """How many random swaps of two cups."""


def draw(rng: random.Random, options: Options) -> tuple[str, Example]:
    """One game. Each step is a line `C AD D`: under C, A and D are swapped (AD), now under D.

    A step repeats the swap and the cup before it, so that the cup after it follows from the line itself: a
    tiny model learns this within some 100 steps, and cups alone not within 200. Swaps are one word for the
    same reason.
    """
    cups = ascii_uppercase[: options.cups]
    ball = start = rng.choice(cups)
    swaps, steps = [], []
    for _ in range(options.swaps):
        a, b = sorted(rng.sample(cups, 2))
        after = {a: b, b: a}.get(ball, ball)
        swaps.append(a + b)
        steps.append(f"{ball} {a}{b} {after}")
        ball = after
    game = f"The ball is under cup {start}. Swaps: {' '.join(swaps)}."
    example = Example("", f"{game} Where is the ball?", ball, tuple(steps), {"cups": options.cups})
    return f"{options.cups} {game}", example


register(
    Generator(
        "shell-game",
        "a ball under one of some cups, random swaps: where is it?",
        grader="exact",
        instruction="The answer is the letter of the cup.",
        options=Options,
        draw=draw,
    )
)
