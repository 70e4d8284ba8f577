"""Tokens at which nothing is decided."""

from __future__ import annotations

import string

_WORDS = """
a an and are as at be been but by can do does for from had has have he her his i if in into is it its let me
my no not of on or our she so some than that the their them then there these they this those to up us was we
were what when which who will with would you your
"""
STOP_WORDS = frozenset(_WORDS.split())


def idle(text: str) -> bool:
    """Whether a token's text is space, punctuation or a common function word. Digits and operators of
    arithmetic decide."""
    bare = text.strip().casefold()
    return not bare or bare in STOP_WORDS or (set(bare) <= set(string.punctuation) - set("+-*/=<>()"))
