"""Lengths of a curriculum's stages, written as `[6, 3, 3, 3, 3]` or `6 3^4`."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

MAX_LENGTHS = 1002
"""A curriculum has stages 0 to max_stage + 1, and max_stage is at most 1000."""
Epochs = Annotated[float, Field(gt=0)]
Steps = Annotated[int, Field(ge=1)]


def parse_lengths(text: str) -> list[float]:
    """`6 3^4` -> [6, 3, 3, 3, 3]: `x^n` is x, n times. Raises ValueError."""
    found: list[float] = []
    for word in text.split():
        value, power, times = word.partition("^")
        try:
            number, count = float(value), int(times) if power else 1
        except ValueError as error:
            raise ValueError(f"{word!r}: expected a number, or such as 3^4 for four times 3") from error
        if not 0 < number < math.inf:
            raise ValueError(f"{word!r}: expected a number above 0")
        if count < 1 or count > MAX_LENGTHS:
            raise ValueError(f"{word!r}: repeat 1 to {MAX_LENGTHS} times")
        found += [number] * count
        if len(found) > MAX_LENGTHS:
            raise ValueError(f"more than {MAX_LENGTHS} entries")
    if not found:
        raise ValueError("empty: expected such as 6 3^4")
    return found


def _lengths(value: Any) -> Any:
    if isinstance(value, str):
        value = parse_lengths(value)
    if isinstance(value, list):
        return [int(v) if isinstance(v, float) and v.is_integer() else v for v in value]
    return value


EpochList = Annotated[
    Epochs | Annotated[list[Epochs], Field(min_length=1)],
    BeforeValidator(_lengths, json_schema_input_type=Epochs | list[Epochs] | str),
]
StepList = Annotated[
    Steps | Annotated[list[Steps], Field(min_length=1)],
    BeforeValidator(_lengths, json_schema_input_type=Steps | list[Steps] | str),
]
