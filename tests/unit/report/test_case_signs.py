"""No sign of a model's reaches the terminal as a command, and none disappears."""

from __future__ import annotations

import pytest

from latentctl.report.case_signs import readable, visible


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" cup", "·cup"),
        ("\n\n", "↵↵"),
        ("\t", "⇥"),
        ("", "∅"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x7f\r", "\\x7f\\x0d"),
        ("\u202eevil", "\\u202eevil"),
        ("a\u200bb", "a\\u200bb"),
        ("\u0301", "◌\u0301"),
        ("数学", "数学"),
        ("شكرا", "شكرا"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_a_token_is_shown_in_one_line_without_control_signs(token: str, shown: str) -> None:
    assert visible(token) == shown


def test_a_text_keeps_its_lines_and_loses_its_control_signs() -> None:
    assert readable("a\r\nb\tc \x1b[2J\u2066d\u2028e") == "a\nb\tc \\x1b[2J\\u2066d\\u2028e"
