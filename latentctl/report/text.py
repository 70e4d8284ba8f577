"""Words, numbers and tables for a terminal of 80 columns. Plain text with a little colour; no rich, it
starts slowly."""

from __future__ import annotations

import math
import os
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TextIO

WIDTH = 80
_TICKS = "▁▂▃▄▅▆▇█"
_COLOURS = {
    "succeeded": "32",
    "running": "36",
    "pending": "33",
    "submitted": "33",
    "planned": "2",
    "failed": "31",
    "lost": "31",
    "unknown": "35",
    "cancelled": "2",
    "skipped": "2",
}


def coloured(stream: TextIO) -> bool:
    """Whether this stream wants colour: a terminal, and NO_COLOR unset."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, state: str, *, colour: bool) -> str:
    """`text` in the colour of a state."""
    code = _COLOURS.get(state.split()[0]) if colour and state else None
    return f"\033[{code}m{text}\033[0m" if code else text


def duration(seconds: float | None) -> str:
    """`45s`, `3m20s`, `2h05m`, `4d02h`; `-` for None."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    s = max(0, round(seconds))
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"


def number(value: Any) -> str:
    """A metric in few characters: four significant digits, thousands with commas."""
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value.is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def percent(value: float | None) -> str:
    """A share as `83.3`."""
    return "-" if value is None else f"{100 * value:.1f}"


def columns(text: str) -> int:
    """Terminal columns of a text: wide signs count two, combining ones none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def short(value: float | None) -> str:
    """A mean with one decimal: `33.2`."""
    return number(None if value is None else round(float(value), 1))


def wrap(text: str, indent: str) -> str:
    """Lines of at most 80 columns: the first as it begins, the others after `indent`."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return "\n".join(textwrap.wrap(plain, WIDTH, subsequent_indent=indent, break_on_hyphens=False))


def small(value: float | None) -> str:
    """Seconds per problem, with three significant digits: `0.0123`."""
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def clip(text: str, width: int, *, middle: bool = False) -> str:
    """At most `width` columns, the end (or the middle) replaced by an ellipsis. Control signs do not reach
    the terminal."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if columns(text) <= width:
        return text
    end = ""
    while middle and text and columns(text[-1] + end) <= (width - 1) // 2:
        text, end = text[:-1], text[-1] + end
    while text and columns(text + end) > width - 1:
        text = text[:-1]
    return f"{text}…{end}"


@dataclass(frozen=True)
class Column:
    """Of a table."""

    title: str
    right: bool = False
    elastic: bool = False
    """Gives up room first when the table is too wide."""
    least: int = 8
    """An elastic column keeps so many columns."""
    middle: bool = False
    """Clipped in the middle: its ends tell more."""


def table(
    head: Sequence[Column], rows: Iterable[Sequence[str]], *, width: int = WIDTH, colour: bool = False
) -> str:
    """Aligned columns, two spaces apart, never wider than `width`. A cell that is a state gets its colour."""
    body = [[*map(str, row)] for row in rows]
    widths = [max([columns(c.title), *(columns(r[i]) for r in body)]) for i, c in enumerate(head)]
    _squeeze(head, widths, width)
    lines = [_line([c.title for c in head], head, widths, colour=False)]
    lines += [_line(row, head, widths, colour=colour) for row in body]
    return "\n".join(line.rstrip() for line in lines)


def _squeeze(head: Sequence[Column], widths: list[int], width: int) -> None:
    """Take what is too much from the elastic columns, widest first; from any other at last."""
    for elastic in (True, False):
        while sum(widths) + 2 * (len(widths) - 1) > width:
            able = [i for i, c in enumerate(head) if c.elastic >= elastic and widths[i] > c.least]
            if not able:
                break
            widths[max(able, key=lambda i: widths[i])] -= 1


def _line(row: Sequence[str], head: Sequence[Column], widths: Sequence[int], *, colour: bool) -> str:
    cells = []
    for cell, column, width in zip(row, head, widths, strict=True):
        text = clip(cell, width, middle=column.middle)
        pad = " " * (width - columns(text))
        text = paint(text, cell.strip(), colour=colour) if cell.strip() in _COLOURS else text
        cells.append(pad + text if column.right else text + pad)
    return "  ".join(cells)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A curve in one line: means of `width` equal parts; flat where all are equal; empty where there are
    none."""
    finite = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if not finite:
        return ""
    width = max(1, min(width, len(finite)))
    edges = [round(i * len(finite) / width) for i in range(width + 1)]
    means = [sum(part) / len(part) for a, b in pairwise(edges) if (part := finite[a:b])]
    low, high = min(means), max(means)
    span = high - low
    if span == 0:
        return _TICKS[3] * len(means)
    return "".join(_TICKS[min(7, int((m - low) / span * 8))] for m in means)
