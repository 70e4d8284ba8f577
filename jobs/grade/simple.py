"""Graders that compare text: numeric, choice, exact, prosqa. Pure and quick."""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import Literal

from jobs.grade.extract import Found, answer_part, marked, plain_signs, shorten
from jobs.grade.numbers import number, numbers_in, show
from jobs.grade.protocol import Answered, Verdict

_UNENDED = Verdict("wrong", None, "the reasoning never ended")


def verdict(right: bool, extracted: str, gold: str, how: str) -> Verdict:
    """A comparison's verdict, with the answer found and where it was found."""
    status: Literal["correct", "wrong"] = "correct" if right else "wrong"
    relation = "equal to" if right else "not"
    return Verdict(status, shorten(extracted), f"{how}: {relation} the gold {shorten(gold, 60)}")


class Numeric:
    """Equal as exact numbers: 1,234 is 1234.0, 007 is 7, \\frac12... no rounding.

    A marked answer with several numbers: the first one after the last "=" ("9*2 = 18 dollars" is 18).
    Without a mark: the last number of the text.
    """

    name = "numeric"
    pooled = False

    def grade(self, item: Answered) -> Verdict:
        gold = number(item.gold)
        if gold is None:
            return Verdict("error", None, f"the gold is not a number: {shorten(item.gold, 60)!r}")
        text = answer_part(item)
        if text is None:
            return _UNENDED
        found = marked(text)
        if found is not None:
            after = plain_signs(found.text).rpartition("=")[2]
            values, how = numbers_in(after)[:1] or numbers_in(found.text)[-1:], found.how
        else:
            values, how = numbers_in(text[-20_000:])[-1:], "the last number"
        if not values:
            return Verdict("wrong", found and shorten(found.text), "no number in the answer")
        return verdict(values[0] == gold, show(values[0]), show(gold), how)


_LETTER = r"[\(\[\{{]?\s*([A-{last}])\s*[\)\]\}}]?"


class Choice:
    """The letter of an option, `(B)`, `B.`, "the answer is B", or the option's own text. `meta.choices`
    bounds them."""

    name = "choice"
    pooled = False

    def grade(self, item: Answered) -> Verdict:
        choices = [str(c) for c in item.meta.get("choices", [])]
        gold = item.gold.strip().upper()
        letters = ascii_uppercase[: len(choices) or 26]
        if gold not in letters or len(gold) != 1:
            return Verdict(
                "error", None, f"the gold is not the letter of an option: {shorten(item.gold, 60)!r}"
            )
        text = answer_part(item)
        if text is None:
            return _UNENDED
        found = marked(text) or Found(text, "the text")
        letter = self._letter(found.text, letters, choices) or self._said(text, letters)
        if letter is None:
            return Verdict("wrong", shorten(found.text), f"{found.how}: names none of the options")
        return verdict(letter == gold, letter, gold, found.how)

    def _letter(self, text: str, letters: str, choices: list[str]) -> str | None:
        bare = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", plain_signs(text)).strip().strip("*$ ")
        one = _LETTER.format(last=letters[-1])
        if m := re.fullmatch(
            rf"(?:option\s+|answer\s*:?\s*)?{one}(?:[.:,)]\s.*|[.:,])?", bare, re.IGNORECASE | re.S
        ):
            return m[1].upper()
        same = [i for i, c in enumerate(choices) if _words(c) == _words(bare) and _words(c)]
        return letters[same[0]] if len(same) == 1 else None

    def _said(self, text: str, letters: str) -> str | None:
        one = _LETTER.format(last=letters[-1])
        said = re.findall(
            rf"(?i:answer|option|choice)\s*(?i:is|:|=)?\s*:?\s*\**\s*{one}(?![\w'])",
            plain_signs(text)[-20_000:],
        )
        return said[-1] if said else None


class Exact:
    """Coconut's: what follows the last "#" (or an answer tag or box), commas removed, equal to the gold."""

    name = "exact"
    pooled = False

    def grade(self, item: Answered) -> Verdict:
        text = answer_part(item)
        if text is None:
            return _UNENDED
        found = marked(text) or Found(text.rpartition("#")[2].strip(), "the text")
        gold = item.gold.replace(",", "").strip()
        return verdict(found.text.replace(",", "").strip() == gold, found.text, gold, found.how)


class Prosqa:
    """The sentence of the gold ("Tom is a lempus."), or at least its concept and not the other one."""

    name = "prosqa"
    pooled = False

    def grade(self, item: Answered) -> Verdict:
        text = answer_part(item)
        if text is None:
            return _UNENDED
        found = marked(text) or Found(text.rpartition("#")[2].strip(), "the text")
        words, gold = _words(found.text), _words(item.gold)
        if words == gold:
            return verdict(True, found.text, item.gold, found.how)
        target = _words(str(item.meta.get("target", "")))[-1:] or gold[-1:]
        other = _words(str(item.meta.get("neg_target", "")))[-1:]
        last = _words(re.split(r"(?<=[.!?])\s+|\n", found.text.strip())[-1])
        if other and other[0] in last and target[0] in last:
            return Verdict("wrong", shorten(found.text), f"{found.how}: names both concepts")
        subject = gold[:1] == last[:1] or len(last) <= 2
        return verdict(bool(target) and last[-1:] == target and subject, " ".join(last), item.gold, found.how)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", plain_signs(text).casefold())
