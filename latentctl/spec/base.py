"""What every spec model shares, and the types that recipes use for durations and sizes."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

SCHEMA_VERSION = 1


class Spec(BaseModel):
    """A part of the spec: unknown keys are errors, values are never changed in place, types are strict.

    Strict means that `lr: "1e-3"` or `nodes: 1.0` is an error, not a guess; an int where a float is asked is
    fine.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        populate_by_name=True,
    )


def _written(pattern: str) -> dict[str, Any]:
    """JSON Schema of a number above zero, or a text of this form."""
    whole = {"type": "integer", "exclusiveMinimum": 0}
    return {"anyOf": [whole, {"type": "string", "pattern": pattern}]}


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: Any) -> int:
    """Seconds from `90s`, `30m`, `12h`, `2d`, `1d12h`, Slurm's `D-HH:MM:SS` / `HH:MM:SS`, or a whole number.

    Raises ValueError in words.
    """
    if isinstance(value, bool):
        raise ValueError("a duration is written like 30m, 12h or 1d12h")
    if isinstance(value, int):
        seconds = value
    elif isinstance(value, str) and (m := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", value.strip())):
        days, hours, minutes, secs = (int(g or 0) for g in m.groups())
        seconds = days * 86400 + hours * 3600 + minutes * 60 + secs
    elif isinstance(value, str) and re.fullmatch(r"(\d+[smhd])+", value.strip()):
        seconds = sum(int(n) * _UNITS[u] for n, u in re.findall(r"(\d+)([smhd])", value))
    else:
        raise ValueError("a duration is written like 30m, 12h, 1d12h or 12:00:00")
    if seconds <= 0:
        raise ValueError("a duration must be longer than zero")
    return seconds


Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    WithJsonSchema(_written(r"^((\d+[smhd])+|(\d+-)?\d+:\d\d:\d\d)$")),
]
"""Seconds; written `30m`, `12h`, `1d12h`, `12:00:00`."""


def parse_size(value: Any) -> int:
    """MiB from `16G`, `512M`, `1T`, or a whole number of MiB. Raises ValueError in words."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and (m := re.fullmatch(r"(\d+)([MGT])i?B?", value.strip())) and int(m[1]) > 0:
        return int(m[1]) * {"M": 1, "G": 1024, "T": 1024 * 1024}[m[2]]
    raise ValueError("a size is written like 512M, 16G or 1T")


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(_written(r"^\d+[MGT]i?B?$")),
]
"""MiB; written `512M`, `16G`, `1T`."""
