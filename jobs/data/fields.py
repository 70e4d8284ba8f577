"""Checked access to the fields of a row: the one place that says what is wrong with a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any


class RowError(Exception):
    """This row cannot be read, and why, in words."""


def text(row: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    """A text field. A number is no text: a question `5` is a mistake in the file or the field mapping."""
    value = need(row, key)
    if not isinstance(value, str):
        raise RowError(f"the field {key!r} must be a text, this is {kind(value)}")
    if not empty and not value.strip():
        raise RowError(f"the field {key!r} is empty")
    return clean(value, key)


def clean(value: str, key: str) -> str:
    """The text itself, if it can be written as UTF-8 at all (JSON allows half of a surrogate pair)."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RowError(f"the field {key!r} has half of a surrogate pair: it is not valid text") from None
    return value


def scalar(row: Mapping[str, Any], key: str) -> str:
    """A gold answer: a text as it is, or a number written plainly (27.0 gives "27")."""
    value = need(row, key)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"the field {key!r} must be a text or a number, this is {kind(value)}")
    if isinstance(value, str):
        return text(row, key).strip()
    return plain_number(value)


def whole(row: Mapping[str, Any], key: str) -> int:
    """A whole number, as a number or as text."""
    value = need(row, key)
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,18}\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        shown = f" ({value!r})" if isinstance(value, str | float) else ""
        raise RowError(f"the field {key!r} must be a whole number, this is {kind(value)}{shown}")
    return value


def texts(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts, blank ones left out."""
    value = need(row, key)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise RowError(f"the field {key!r} must be a list of texts, this is {kind(value)}")
    return tuple(clean(v.strip(), key) for v in value if v.strip())


def need(row: Mapping[str, Any], key: str) -> Any:
    """The value of a field that must be there and not null."""
    if key not in row:
        raise RowError(f"the field {key!r} is missing (there are: {', '.join(map(str, row)) or 'none'})")
    if row[key] is None:
        raise RowError(f"the field {key!r} is null")
    return row[key]


def kind(value: Any) -> str:
    """What a value is, in words."""
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false", int: "a number"}
    return "null" if value is None else {**names, float: "a number"}.get(type(value), type(value).__name__)


def plain_number(value: float | str) -> str:
    """27.0 -> "27", 0.5 -> "0.5", "1,234" -> "1234", "025" -> "25"; text that is no number comes back
    stripped.
    """
    bare = str(value).strip().replace(",", "")
    try:
        number = Decimal(bare)
    except InvalidOperation:
        return str(value).strip()
    if not number.is_finite() or abs(number.adjusted()) > 40:
        return str(value).strip()
    if number == number.to_integral_value():
        return str(int(number))
    return f"{number.normalize():f}"
