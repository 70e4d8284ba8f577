"""Where the answer stands in what a model wrote: one order for all graders, so that all arms of a study
share it.

1. Reasoning blocks are taken out, nested ones with what is around them (`jobs.grade.reasoning`); reasoning
that never ended holds no answer. What follows the last block counts; where it marks no answer and an earlier
piece outside the blocks has a tag or a box, that one. 2. The last <answer> block (one that was cut off before
its closing tag counts too), else the last \\boxed{...} (braces balanced), else the first line with text after
the last "###" or "####". A box inside an answer block is opened. 3. Nothing of these: the grader's own
fallback (numeric: the last number; choice: "the answer is B"; others: the text).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from jobs.data.boxed import last_boxed
from jobs.grade.protocol import Answered
from jobs.grade.reasoning import parts

_SPECIAL = re.compile(r"<\|[^<>|\n]{1,40}\|>|</?s>")
_OPEN, _CLOSE = re.compile(r"<answer>", re.IGNORECASE), re.compile(r"</answer>", re.IGNORECASE)
_HASHES = re.compile(r"#{3,}")
_EXPLICIT = re.compile(r"<answer>|\\(?:boxed|fbox)", re.IGNORECASE)
"""Hashes mark headings too: before the reasoning they are no answer."""
_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": "*", "✕": "*", "⋅": "*", "·": "*", "∙": "*"}
    | {"÷": "/", "⁄": "/", "∕": "/", "∗": "*", "＝": "=", "’": "'", "\u200b": "", "\ufeff": ""}
)


@dataclass(frozen=True)
class Found:
    """An answer that the text marks as such. `how` names the mark, for the verdict's reason."""

    text: str
    how: str


def plain_signs(text: str) -> str:
    """Unicode's minus, times, division and full-width forms as ASCII."""
    return unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)


def answer_part(item: Answered) -> str | None:
    """What the model wrote as its answer, special tokens left out; None where the reasoning never ended."""
    found = parts(item.text, *item.markers)
    if found.open and not found.blocks:
        return None
    *earlier, last = map(without_specials, found.outside)
    if not marked(last):
        last = next((p for p in reversed(earlier) if _EXPLICIT.search(p) and marked(p)), last)
    return last


def without_specials(text: str) -> str:
    """Without special tokens, and without the blanks around what is left."""
    return _SPECIAL.sub("", text).strip()


def marked(text: str) -> Found | None:
    """The answer that a tag, a box or hashes mark; None without any."""
    opens = list(_OPEN.finditer(text))
    if opens:
        block = _CLOSE.split(text[opens[-1].end() :], maxsplit=1)[0].strip()
        boxed = last_boxed(block)
        return Found(block if boxed is None else boxed, "<answer>")
    boxed = last_boxed(text)
    if boxed is not None:
        return Found(boxed, "\\boxed")
    hashes = list(_HASHES.finditer(text))
    if hashes:
        rest = text[hashes[-1].end() :].strip()
        return Found(rest.split("\n", 1)[0].strip(), "###") if rest else None
    return None


def answer(item: Answered) -> Found | None:
    """The answer: what is marked as such, else all that stands outside the reasoning; None without any."""
    text = answer_part(item)
    return (marked(text) or Found(text, "the text")) if text else None


def shorten(text: str, limit: int = 200) -> str:
    """For a verdict: the beginning and the end of a long text."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"
