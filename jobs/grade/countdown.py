"""Countdown: an expression over given numbers that gives the target. The text is parsed here, never run
as code."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from jobs.grade.extract import Found, answer_part, marked, plain_signs, shorten
from jobs.grade.protocol import Answered, Verdict

_MAX_LENGTH = 500
_MAX_DEPTH = 50
_MAX_DIGITS = 12


class NotAnExpression(ValueError):
    """Why, in words."""


def clean(text: str) -> str:
    """An expression as models write it, in ASCII: LaTeX's times, division, fractions, braces; without "=
    value"."""
    text = plain_signs(text)
    text = re.sub(r"\\(?:left|right|displaystyle|[,;:! ]|quad)", "", text)
    text = re.sub(r"\\(?:times|cdot|ast)", "*", text)
    text = re.sub(r"\\div", "/", text)
    text = (
        text.strip().strip("`*$").replace("\\(", "").replace("\\)", "").replace("\\[", "").replace("\\]", "")
    )
    text = text.replace("[", "(").replace("]", ")")
    while (opened := re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))", text)) != text:
        text = opened
    text = text.replace("{", "(").replace("}", ")")
    return text.strip().rstrip(".").strip()


@dataclass
class _Parser:
    """Recursive descent over + - * / ( ), unary minus, whole numbers; exact, bounded in length, depth
    and digits."""

    text: str
    place: int = 0
    depth: int = 0

    by_zero: bool = False
    """A division by zero was met; the value means nothing."""

    def __post_init__(self) -> None:
        self.numbers: list[int] = []

    def parse(self) -> Fraction:
        value = self._sum()
        if self.place < len(self.text):
            raise NotAnExpression(f"{shorten(self.text[self.place :], 20)!r} is not part of an expression")
        return value

    def _peek(self) -> str:
        while self.place < len(self.text) and self.text[self.place].isspace():
            self.place += 1
        return self.text[self.place] if self.place < len(self.text) else ""

    def _sum(self) -> Fraction:
        value = self._product()
        while (sign := self._peek()) in ("+", "-") and sign:
            self.place += 1
            right = self._product()
            value = value + right if sign == "+" else value - right
        return value

    def _product(self) -> Fraction:
        value = self._factor()
        while (sign := self._peek()) in ("*", "/") and sign:
            if self.text[self.place : self.place + 2] in ("**", "//"):
                raise NotAnExpression(f"{sign * 2} is not one of + - * /")
            self.place += 1
            right = self._factor()
            self.by_zero |= sign == "/" and right == 0
            value = value * right if sign == "*" or right == 0 else value / right
        return value

    def _factor(self) -> Fraction:
        sign = self._peek()
        if sign in ("-", "(") and sign:
            self.place += 1
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise NotAnExpression(f"nested more than {_MAX_DEPTH} deep")
            value = -self._factor() if sign == "-" else self._closed()
            self.depth -= 1
            return value
        return self._number()

    def _closed(self) -> Fraction:
        value = self._sum()
        if self._peek() != ")":
            raise NotAnExpression("a parenthesis is not closed")
        self.place += 1
        return value

    def _number(self) -> Fraction:
        match = re.compile(r"[0-9]+").match(self.text, self.place)
        if match is None:
            rest = self.text[self.place :]
            raise NotAnExpression(
                f"{shorten(rest, 20)!r} is not a number" if rest else "the expression breaks off"
            )
        if self.text[match.end() : match.end() + 1] == ".":
            raise NotAnExpression("decimals are not whole numbers")
        if len(match[0]) > _MAX_DIGITS:
            raise NotAnExpression(f"a number of {len(match[0])} digits")
        self.place = match.end()
        self.numbers.append(int(match[0]))
        return Fraction(self.numbers[-1])


def work_out(expression: str) -> tuple[Fraction, list[int]]:
    """(exact value, the numbers used). Raises NotAnExpression in words."""
    value, numbers = _parsed(expression)
    if value is None:
        raise NotAnExpression("division by zero")
    return value, numbers


def _parsed(expression: str) -> tuple[Fraction | None, list[int]]:
    """The same; the value is None where it divides by zero."""
    if len(expression) > _MAX_LENGTH:
        raise NotAnExpression(f"{len(expression)} characters are too long for an expression")
    parser = _Parser(expression)
    value = parser.parse()
    return None if parser.by_zero else value, parser.numbers


class Countdown:
    """`meta.nums` and `meta.target` decide. Each number must be used exactly once (`meta.use_all: false`:
    at most once).

    Of "a = b" the side that is an expression counts: the value written beside it is not trusted, and not
    needed.
    """

    name = "countdown"
    pooled = False

    def grade(self, item: Answered) -> Verdict:
        try:
            nums, target = _nums(item), Fraction(str(item.meta["target"]))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            return Verdict("error", None, f"meta needs nums and target: {error!r}")
        expression = _expression(item)
        if isinstance(expression, Verdict):
            return expression
        shown = shorten(expression)
        try:
            value, used = work_out(expression)
        except NotAnExpression as error:
            return Verdict("wrong", shown, str(error))
        if reason := _misused(used, nums, item):
            return Verdict("wrong", shown, reason)
        if value != target:
            return Verdict("wrong", shown, f"gives {value}, not {target}")
        return Verdict("correct", shown, f"gives {target}")

    def uses_the_numbers(self, item: Answered) -> bool:
        """Whether the answer is an expression over the given numbers, each as often as it may be used,
        whatever its value. Raises KeyError, TypeError or ValueError where `meta` lacks `nums`."""
        nums, expression = _nums(item), _expression(item)
        if isinstance(expression, Verdict):
            return False
        try:
            _, used = _parsed(expression)
        except NotAnExpression:
            return False
        return _misused(used, nums, item) is None


def _nums(item: Answered) -> list[int]:
    return [int(n) for n in item.meta["nums"]]


def _expression(item: Answered) -> str | Verdict:
    """What is written as the expression; a verdict where nothing is."""
    text = answer_part(item)
    if text is None:
        return Verdict("wrong", None, "the reasoning never ended")
    found = marked(text) or (Found(text, "the text") if len(text) <= _MAX_LENGTH else None)
    if found is None:
        return Verdict("wrong", None, "no <answer>, \\boxed or ### holds an answer")
    return _side(clean(found.text[: 4 * _MAX_LENGTH]))


def _misused(used: list[int], nums: list[int], item: Answered) -> str | None:
    """In words, which number is used too often or not at all; None if none is."""
    extra, unused = Counter(used) - Counter(nums), Counter(nums) - Counter(used)
    if extra:
        n = next(iter(extra))
        return f"uses {n} {used.count(n)} times" if n in nums else f"uses {n}, which is not given"
    if unused and item.meta.get("use_all", True):
        return f"does not use {', '.join(map(str, unused.elements()))}"
    return None


def _side(text: str) -> str:
    """The side of an equation that has an operator; the first line of several lines that has one."""
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    line = next((li for li in lines if re.search(r"\d.*[-+*/]", li)), lines[0])
    sides = [s.strip() for s in line.split("=")]
    return next((s for s in sides if re.search(r"\d.*[-+*/]", s)), sides[0])
