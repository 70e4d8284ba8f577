"""Where the answer stands in what a model wrote: one order for all graders, so that all arms of a study
share it.

1. Only what follows the last end marker of the reasoning counts; reasoning that never ended holds no
answer. 2. The last <answer> block (one that was cut off before its closing tag counts too), else the last
\\boxed{...} (braces balanced), else the first line with text after the last "###" or "####". A box inside
an answer block is opened. 3. Nothing of these: the grader's own fallback (numeric: the last number; choice:
"the answer is B"; others: the text).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from jobs.data.boxed import last_boxed
from jobs.grade.protocol import Answered

_SPECIAL = re.compile(r"<\|[^<>|\n]{1,40}\|>|</?s>")
_OPEN, _CLOSE = re.compile(r"<answer>", re.IGNORECASE), re.compile(r"</answer>", re.IGNORECASE)
_HASHES = re.compile(r"#{3,}")
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
    """What the model wrote after its reasoning, special tokens left out; None where the reasoning never
    ended."""
    start, end = item.markers
    _, marker, tail = item.text.rpartition(end) if end else ("", "", item.text)
    if not marker and start and start in item.text:
        return None
    return _SPECIAL.sub("", tail if marker else item.text).strip()


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


def shorten(text: str, limit: int = 200) -> str:
    """For a verdict: the beginning and the end of a long text."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"
