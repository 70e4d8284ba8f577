"""Numbers in text as exact fractions."""

from __future__ import annotations

import re
from fractions import Fraction

from jobs.grade.extract import plain_signs

_MAX_DIGITS = 400
"""Longer strings of digits are no answers, and slow."""

# Thousands separators (1,234,567), then decimals, an exponent, a plain fraction.
_DIGITS = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:\\[dt]?frac\{{(?P<n>{_DIGITS})\}}\{{(?P<d>{_DIGITS})\}}"
    rf"|(?P<whole>{_DIGITS})?(?P<decimals>\.\d+)?(?:[eE](?P<exp>[-+]?\d{{1,3}})(?![\w.]))?(?P<dot>\.(?!\d))?"
    rf"(?:\s*/\s*(?P<over>{_DIGITS})(?![\d.]))?)"
)
_DRESS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\\[,;:! ]|~|\{,\}")


def undress(text: str) -> str:
    """Without dollars, percent signs, \\text{}, LaTeX spaces; signs in ASCII."""
    text = plain_signs(text)
    text = _SPACES.sub(lambda m: "," if m[0] == "{,}" else "", _DRESS.sub(r"\1", text))
    return text.replace("\\$", "").replace("$", "").replace("\\%", "").replace("%", "").replace("\\left", "")


def numbers_in(text: str) -> list[Fraction]:
    """Every number of the text in order: 1,234.5, -3, 3/4, \\frac{3}{4}, 1e3. A minus after a digit is
    no sign."""
    text = undress(text)
    found = []
    place = 0
    while place < len(text):
        match = _NUMBER.search(text, place)
        if match is None:
            break
        if not match["n"] and not match["whole"] and not match["decimals"]:
            place = match.end() if match.end() > place else place + 1
            continue
        value = _value(match, signed=not _digit_before(text, match.start()))
        if value is not None:
            found.append(value)
        place = match.end()
    return found


def number(text: str) -> Fraction | None:
    """The one number of a text that is nothing but a number; None otherwise."""
    bare = undress(text).strip().rstrip(".").strip()
    match = _NUMBER.fullmatch(bare)
    if match is None or not (match["n"] or match["whole"] or match["decimals"]):
        return None
    return _value(match, signed=True)


def _digit_before(text: str, place: int) -> bool:
    before = text[:place].rstrip()
    return bool(before) and (before[-1].isdigit() or before[-1] == ")")


def _value(match: re.Match[str], *, signed: bool) -> Fraction | None:
    whole = (match["n"] or match["whole"] or "0").replace(",", "")
    below = (match["d"] or match["over"] or "1").replace(",", "")
    decimals = match["decimals"] or ""
    if max(len(whole), len(below), len(decimals)) > _MAX_DIGITS or int(below) == 0:
        return None
    value = Fraction(f"{whole}{decimals}") / int(below)
    if match["exp"]:
        value *= Fraction(10) ** int(match["exp"])
    return -value if match["sign"] == "-" and signed else value


def show(value: Fraction) -> str:
    """As a person writes it: 42, 0.5, 1/3."""
    if value.denominator == 1:
        return str(value.numerator)
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return f"{float(value):.12g}" if below == 1 and abs(value) < 10**12 else str(value)
