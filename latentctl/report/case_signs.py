"""Text that a model wrote, made safe and visible: no control sign reaches a terminal or reorders a line."""

from __future__ import annotations

import unicodedata

_NAMED = {" ": "·", "\n": "↵", "\t": "⇥", "\x7f": "␡"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(token: str) -> str:
    """One token in one line: a space is `·`, a line end `↵`, a tab `⇥`, other control signs their pictures
    (`␛`), what has no shape its code (`\\u202e`). A combining sign at the front gets a circle to stand on."""
    shown = "".join(_NAMED.get(c) or _sign(c) for c in token) or "∅"
    return f"◌{shown}" if unicodedata.combining(shown[0]) else shown


def readable(text: str) -> str:
    """Text of many lines: line ends, tabs and spaces stay, everything else that has no shape is shown."""
    text = text.replace("\r\n", "\n")
    return "".join(c if c in "\n\t" else _sign(c) for c in text)


def _sign(c: str) -> str:
    if ord(c) < 0x20:
        return chr(0x2400 + ord(c))
    if c == "\x7f":
        return _NAMED[c]
    if unicodedata.category(c) in _HIDDEN:
        return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
    return c
