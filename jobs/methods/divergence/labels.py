"""Whether two answers are the same: the label of a branch and its parent."""

from __future__ import annotations

import ast

from jobs.grade.countdown import NotAnExpression, clean, work_out
from jobs.grade.diversity import simplified
from jobs.grade.numbers import number

SAME, EQUAL, OTHER = 1.0, 0.5, 0.0
"""One answer in one form; one value in two forms; two answers (document 000's levels over 2)."""


def label(one: str, other: str, grader: str) -> float | None:
    """Of two answers as they were read out of the texts. None: the grader has to say whether their values
    are equal, for they are written differently."""
    if simplified(one) == simplified(other):
        return SAME
    if grader == "countdown":
        return _expressions(one, other)
    if grader in ("numeric", "math"):
        first, second = number(one), number(other)
        if first is not None and second is not None:
            return EQUAL if first == second else OTHER
        return None if grader == "math" else OTHER
    return OTHER


def _expressions(one: str, other: str) -> float:
    if (form := _form(one)) is not None and form == _form(other):
        return SAME
    try:
        return EQUAL if work_out(clean(one))[0] == work_out(clean(other))[0] else OTHER
    except NotAnExpression:
        return OTHER


def _form(expression: str) -> str | None:
    """An expression without its spaces and needless parentheses."""
    text = clean(expression)
    try:
        work_out(text)  # bounded, and nothing but arithmetic
        return ast.dump(ast.parse(text.lstrip(), mode="eval"))
    except (NotAnExpression, SyntaxError, ValueError, RecursionError):
        return None
