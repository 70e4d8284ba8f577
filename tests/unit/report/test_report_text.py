"""Numbers and tables fit 80 columns and say what they mean."""

from __future__ import annotations

import math

import pytest

from latentctl.report.text import Column, clip, columns, duration, number, paint, sparkline, table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0s"),
        (59.6, "1m00s"),
        (200, "3m20s"),
        (7500, "2h05m"),
        (352800, "4d02h"),
        (math.nan, "-"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (12345, "12,345"),
        (0.000123456, "0.0001235"),
        (2.0, "2"),
        (12345.6, "12,346"),
        (math.nan, "nan"),
    ],
)
def test_numbers(value: object, text: str) -> None:
    assert number(value) == text


def test_a_table_is_never_wider_than_asked() -> None:
    head = [Column("A", elastic=True), Column("B", elastic=True), Column("N", right=True)]
    text = table(head, [["x" * 100, "y" * 50, "7"], ["short", "s", "12345"]], width=60)
    assert all(columns(line) <= 60 for line in text.splitlines())
    assert "12345" in text
    assert "…" in text


def test_wide_signs_count_two() -> None:
    assert columns("日本") == 4
    assert columns(clip("日本語テキスト", 7)) <= 7


def test_control_signs_do_not_reach_the_terminal() -> None:
    assert clip("a\x1b[31mb\nc", 20) == "a [31mb c"


def test_a_sparkline_rises_with_its_values() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5, 5]) == "▄▄▄"
    assert sparkline([]) == ""
    assert sparkline([math.nan, math.inf]) == ""
    assert sparkline([1.0, math.nan, 2.0]) == "▁█"


def test_a_long_curve_is_averaged_into_the_width() -> None:
    line = sparkline(list(range(1000)), width=20)
    assert len(line) == 20
    assert list(line) == sorted(line)


def test_colour_is_only_where_asked() -> None:
    assert paint("x", "failed", colour=False) == "x"
    assert paint("x", "failed", colour=True) == "\033[31mx\033[0m"
