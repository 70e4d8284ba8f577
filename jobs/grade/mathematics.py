"""The grader `math`: equality of mathematical expressions, by math-verify. Slow and fallible, so it runs
in the pool."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

from jobs.grade.extract import answer_part, marked, plain_signs, shorten
from jobs.grade.numbers import number, show
from jobs.grade.protocol import Answered, Verdict

_MAX_EXPRESSION = 1000
_MAX_TEXT = 8000


class Math:
    """Gold first, then the answer (math-verify's `verify` is not symmetric). Time is bounded by the pool
    alone."""

    name = "math"
    pooled = True

    def warm(self) -> None:
        """Import and try what grading needs, before time and memory are bounded."""
        logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we bound its time ourselves
        self.grade(Answered("\\boxed{\\frac{1}{2}}", "0.5", markers=("", "")))

    def prepare(self, item: Answered) -> Answered | Verdict:
        """What the pool needs of an item: the answer alone. A verdict where none is needed.

        Texts that differ in their reasoning alone become equal here, so each (gold, answer) is judged once.
        """
        if not item.gold.strip():
            return Verdict("error", None, "there is no gold answer")
        text = answer_part(item)
        if text is None:
            return Verdict("wrong", None, "the reasoning never ended")
        found = marked(text)
        if found is None:
            return replace(item, text=text[-_MAX_TEXT:], meta={}, markers=("", ""))
        if _canonical(found.text) == _canonical(item.gold):
            return Verdict("correct", shorten(found.text), f"{found.how}: the gold itself")
        gold, value = number(item.gold), number(found.text[:_MAX_EXPRESSION])
        if gold is not None and gold == value:
            return Verdict("correct", shorten(found.text), f"{found.how}: the gold's number {show(gold)}")
        if len(found.text) > _MAX_EXPRESSION:
            reason = f"{found.how}: {len(found.text)} characters are too long for an answer"
            return Verdict("wrong", shorten(found.text), reason)
        return Answered(f"\\boxed{{{found.text}}}", item.gold, markers=("", ""))

    def grade(self, item: Answered) -> Verdict:
        """In a process of the pool: may take any time, may need any memory."""
        prepared = self.prepare(item) if item.markers != ("", "") else item
        if isinstance(prepared, Verdict):
            return prepared
        from math_verify import parse, verify

        gold = _parse_gold(prepared.gold)
        if not gold:
            return Verdict("error", None, f"the gold cannot be read: {shorten(prepared.gold, 60)!r}")
        answer = parse(
            plain_signs(prepared.text),
            extraction_config=_config(),
            extraction_mode="first_match",
            parsing_timeout=None,  # pyright: ignore[reportArgumentType]
            raise_on_error=True,
        )
        if not answer:
            return Verdict("wrong", None, "no mathematical expression in the answer")
        shown = shorten(str(answer[-1]))
        right = verify(gold, answer, timeout_seconds=None, raise_on_error=True)
        relation = "equal to" if right else "not"
        how = "the marked answer" if prepared.text.startswith("\\boxed") else "the last expression"
        reason = f"{how}: {relation} the gold {shorten(prepared.gold, 60)}"
        return Verdict("correct" if right else "wrong", shown, reason)


@lru_cache(maxsize=4096)
def _parse_gold(gold: str) -> list[Any]:
    from math_verify import parse

    gold = gold.replace("\\$", "")
    text = gold if "$" in gold or "\\boxed" in gold else f"\\boxed{{{gold}}}"
    return parse(
        plain_signs(text),
        extraction_config=_config(),
        extraction_mode="first_match",
        parsing_timeout=None,  # pyright: ignore[reportArgumentType]
        raise_on_error=True,
    )


@lru_cache(maxsize=1)
def _config() -> list[Any]:
    """Boxed first; malformed operators (\\frac12) are read as meant: answers are judged, not their form."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    return [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]


_NOISE = re.compile(r"\\(?:left|right|displaystyle|[,;:! ])|\\text\s*\{([^{}]*)\}|\s+|\$")


def _canonical(text: str) -> str:
    """Spacing and dressing aside."""
    text = _NOISE.sub(lambda m: m[1] or "", plain_signs(text)).rstrip(".")
    return re.sub(r"\\[dt]frac", r"\\frac", text)
