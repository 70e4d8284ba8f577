r"""The last \boxed{...} of a LaTeX solution."""

from __future__ import annotations

import re

_START = re.compile(r"\\(?:boxed|fbox)\s*(\{|(?=[^\s{]))")


def last_boxed(text: str) -> str | None:
    r"""Contents of the last \boxed{...} or \fbox{...}, braces balanced; `\boxed 5` counts too. None without
    one.
    """
    found = list(_START.finditer(text))
    if not found:
        return None
    start = found[-1].end()
    if not found[-1].group(1):
        return re.match(r"\S", text[start:]).group() if start < len(text) else None  # type: ignore[union-attr]
    depth = 1
    position = start
    while position < len(text):
        sign = text[position]
        if sign == "\\":
            position += 2
            continue
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth == 0:
            return text[start:position].strip()
        position += 1
    return None
