"""Which parts of a text are reasoning and which stand outside: blocks between two markers, which may nest,
or between one marker twice."""

from __future__ import annotations

import re
from typing import NamedTuple


class Parts(NamedTuple):
    """A text cut at its reasoning blocks. Of nested blocks the outermost counts, with all that it holds."""

    blocks: tuple[str, ...]
    """What stands between the markers of each block that ended."""
    outside: tuple[str, ...]
    """What stands around the blocks: before the first, then behind each. Always one more than `blocks`."""
    open: bool
    """The text ends inside a block; what that block holds is in neither list."""
    headless: bool
    """The first block's start marker is not in the text."""


def parts(text: str, start: str, end: str, *, opened: bool | None = None) -> Parts:
    """The text's blocks. `opened`: the text begins inside one, whose start marker stands in the prompt;
    None: nobody knows.

    An end marker without a start before it closes a block that began with the text, whatever stands there.
    A start marker within a block begins a nested one; where the outer of them lacks its end, the last end
    marker closes it. Equal markers open and close in turn; of an odd number, where nobody knows better, the
    first closes unless the text begins with it. An empty marker is never found.
    """
    wanted = sorted({m for m in (start, end) if m}, key=len, reverse=True)
    found = re.finditer("|".join(map(re.escape, wanted)), text) if wanted else ()
    marks = [(m.start(), m.end(), m[0] == start) for m in found]
    if start == end:
        blocks, outside, open, headless = _alternate(
            len(text), marks, _inside(text, start, len(marks), opened)
        )
    else:
        blocks, outside, open, headless = _nest(marks, len(text), opened=bool(opened))
    return Parts(tuple(text[a:b] for a, b in blocks), tuple(text[a:b] for a, b in outside), open, headless)


Places = list[tuple[int, int]]
Marks = list[tuple[int, int, bool]]
"""Where each marker begins and ends, and whether it is a start marker."""


def _inside(text: str, marker: str, count: int, opened: bool | None) -> bool:
    if opened is not None:
        return opened
    return count % 2 == 1 and not text.lstrip().startswith(marker)


def _alternate(length: int, marks: Marks, inside: bool) -> tuple[Places, Places, bool, bool]:
    headless = inside
    blocks: Places = []
    outside: Places = [(0, 0)] if inside else []
    place = 0
    for a, b, _ in marks:
        (blocks if inside else outside).append((place, a))
        inside, place = not inside, b
    if not inside:
        outside.append((place, length))
    return blocks, outside, inside, headless


def _nest(marks: Marks, length: int, *, opened: bool) -> tuple[Places, Places, bool, bool]:
    headless, depth, place = opened, int(opened), 0
    blocks: Places = []
    outside: Places = [(0, 0)] if opened else []
    for a, b, starts in marks:
        if starts:
            if depth == 0:
                outside.append((place, a))
                place = b
            depth += 1
        elif depth == 0:  # all that came before was reasoning
            headless, blocks, outside, place = True, [(0, a)], [(0, 0)], b
        else:
            depth -= 1
            if depth == 0:
                blocks.append((place, a))
                place = b
    last = next(((a, b) for a, b, starts in reversed(marks) if not starts), None)
    if depth and last is not None and last[0] >= place:  # the outer block lacks its end
        blocks.append((place, last[0]))
        place = last[1]
        again = next((a for a, _, starts in marks if starts and a >= place), length)
        depth = int(again < length)
        outside.append((place, again))
    elif depth == 0:
        outside.append((place, length))
    return blocks, outside, depth > 0, headless
