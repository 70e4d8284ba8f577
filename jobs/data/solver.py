"""Solves countdown problems: exact, exhaustive, for a handful of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

Term = tuple[Fraction, str]


def solve(nums: Sequence[int], target: int) -> str | None:
    """An expression that uses each number exactly once and gives the target; None if there is none.

    Whole-number solutions first, then fractions. Six numbers take seconds.
    """
    start = [(n, str(n)) for n in nums]
    return _search(start, target, whole=True) or _search(start, target, whole=False)


def _search(terms: list, target: int, *, whole: bool) -> str | None:
    if len(terms) == 1:
        return _outer(terms[0][1]) if terms[0][0] == target else None
    seen: set[tuple] = set()
    for i in range(len(terms)):
        for j in range(i):
            (a, left), (b, right) = terms[i], terms[j]
            if (a, b) in seen:
                continue
            seen |= {(a, b), (b, a)}
            rest = [t for k, t in enumerate(terms) if k not in (i, j)]
            for made in _combine(a, left, b, right, whole=whole):
                if found := _search([*rest, made], target, whole=whole):
                    return found
    return None


def _combine(a, left: str, b, right: str, *, whole: bool) -> Iterator[tuple]:
    yield a + b, f"({left}+{right})"
    yield a - b, f"({left}-{right})"
    yield b - a, f"({right}-{left})"
    yield a * b, f"({left}*{right})"
    for x, y, shown in ((a, b, f"({left}/{right})"), (b, a, f"({right}/{left})")):
        if y == 0:
            continue
        if not whole:
            yield Fraction(x) / y, shown
        elif x % y == 0:
            yield x // y, shown


def _outer(expression: str) -> str:
    return expression[1:-1] if expression.startswith("(") else expression
