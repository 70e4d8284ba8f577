"""Countdown problems that can be solved: numbers are combined at random, and what comes out is the target."""

from __future__ import annotations

import random

from pydantic import Field, model_validator

from jobs.data.example import Example
from jobs.data.registry import Generator, NothingFits, register
from jobs.data.sets.countdown import INSTRUCTION, countdown
from latentctl.spec.base import Spec

_LIMIT = 1000
_COST = {"+": 0, "-": 1, "*": 2, "/": 3}
_TIGHT = {"+": 1, "-": 1, "*": 2, "/": 2}


class Options(Spec):
    """Settings of `countdown-gen`."""

    nums: list[int] = Field(default=[3, 4], min_length=1, max_length=2)
    """How many numbers: `[4]`, or from `[3, 5]`."""
    max_number: int = Field(default=99, ge=4, le=10_000)
    """Numbers are drawn from 1 to this."""
    target: list[int] = Field(default=[10, 100], min_length=2, max_length=2)
    """Smallest and largest target."""
    difficulty: list[float] = Field(default=[0.0, 1.0], min_length=2, max_length=2)
    """Keep problems between these: 0 is one addition after another, 1 divisions only and the most numbers."""

    @model_validator(mode="after")
    def _ranges(self) -> Options:
        if not 2 <= self.nums[0] <= self.nums[-1] <= 6:
            raise ValueError(f"nums are one or two ascending counts from 2 to 6, not {self.nums}")
        if not 1 <= self.target[0] <= self.target[1] <= _LIMIT:
            raise ValueError(f"target is [smallest, largest] within 1 to {_LIMIT}, not {self.target}")
        if not 0 <= self.difficulty[0] <= self.difficulty[1] <= 1:
            raise ValueError(f"difficulty is [lowest, highest] within 0 to 1, not {self.difficulty}")
        return self


def difficulty(signs: list[str]) -> float:
    """From 0 to 1: the mean cost of the operations (+ 0, - 1, * 2, / 3), scaled up to 5 operations.

    Half of it is the kind of operations, half their number: (mean cost / 3 + (count - 1) / 4) / 2, at most 1.
    """
    mean = sum(_COST[s] for s in signs) / len(signs) / 3
    return round(min(1.0, (mean + (len(signs) - 1) / 4) / 2), 4)


def draw(rng: random.Random, options: Options) -> tuple[str, Example]:
    """One problem; tries until the target and the difficulty fit. The key is the numbers alone.

    So the same numbers with another target never stand in another split.
    """
    for _ in range(10_000):
        count = rng.randint(options.nums[0], options.nums[-1])
        nums = [rng.randint(1, options.max_number) for _ in range(count)]
        made = _combine(rng, nums)
        if made is None:
            continue
        target, expression, signs = made
        hard = difficulty(signs)
        low, high = options.target
        if low <= target <= high and options.difficulty[0] <= hard <= options.difficulty[1]:
            example = countdown(nums, target, expression, difficulty=hard)
            return " ".join(map(str, sorted(nums))), example
    raise NothingFits


def _combine(rng: random.Random, nums: list[int]) -> tuple[int, str, list[str]] | None:
    """Combine two terms at a time; None where an operation leads nowhere (1 to 1000, whole, not idle)."""
    terms = [(n, str(n), 3) for n in nums]
    signs = []
    while len(terms) > 1:
        a = terms.pop(rng.randrange(len(terms)))
        b = terms.pop(rng.randrange(len(terms)))
        sign = rng.choice("+-*/")
        value = _value(sign, a[0], b[0])
        if value is None:
            return None
        tight = _TIGHT[sign]
        left = a[1] if a[2] >= tight else f"({a[1]})"
        right = b[1] if b[2] > tight else f"({b[1]})"
        terms.append((value, f"{left}{sign}{right}", tight))
        signs.append(sign)
    value, expression, _ = terms[0]
    return value, expression, signs


def _value(sign: str, a: int, b: int) -> int | None:
    if sign == "+":
        value = a + b
    elif sign == "-":
        value = a - b
    elif sign == "*":
        value = a * b if min(a, b) > 1 else 0
    else:
        value = a // b if b > 1 and a % b == 0 else 0
    return value if 1 <= value <= _LIMIT else None


register(
    Generator(
        "countdown-gen",
        "countdown problems made on the spot, with their solution steps",
        grader="countdown",
        instruction=INSTRUCTION,
        options=Options,
        draw=draw,
    )
)
