"""Text that a model wrote, made safe and visible: no control sign reaches a terminal or reorders a line."""

from __future__ import annotations

import unicodedata

_NAMED = {" ": "·", "\n": "↵", "\t": "⇥"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(token: str) -> str:
    """One token in one line: a space is `·`, a line end `↵`, a tab `⇥`, whatever else has no shape its code
    (`\\x1b`, `\\u202e`). A combining sign at the front gets a circle to stand on."""
    shown = "".join(_NAMED.get(c) or _sign(c) for c in token) or "∅"
    return f"◌{shown}" if unicodedata.combining(shown[0]) else shown


def readable(text: str) -> str:
    """Text of many lines: line ends, tabs and spaces stay, everything else that has no shape is shown."""
    text = text.replace("\r\n", "\n")
    return "".join(c if c in "\n\t" else _sign(c) for c in text)


def _sign(c: str) -> str:
    if unicodedata.category(c) not in _HIDDEN:
        return c
    code = ord(c)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
