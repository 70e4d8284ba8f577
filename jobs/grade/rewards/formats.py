"""Rewards for the form of a text, right or wrong: of its answer, and of the whole."""

from __future__ import annotations

import re

from jobs.data.boxed import last_boxed
from jobs.grade.countdown import Countdown
from jobs.grade.extract import plain_signs, without_specials
from jobs.grade.rewards.view import View

TRAILING = 100
"""So many characters behind </answer> take its quarter away."""
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_DIGITS = re.compile(r"[0-9]+")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{[^{}]*\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+|\\.", re.DOTALL)
_PROSE = re.compile(r"[^\W\d_]{2,}\s+[^\W\d_]{2,}")
_LONGEST = 300


def answer_format(view: View, grader: str) -> float:
    """1 if the answer has the form of one, whatever its value.

    countdown: an expression over the given numbers, each as often as the problem wants it. choice: the letter
    of an option and nothing else. math, where the gold is not digits alone: mathematics, with no two words in
    a row outside \\text{}. Otherwise: digits alone. Raises KeyError, TypeError or ValueError where a
    countdown lacks its numbers.
    """
    if grader == "countdown":
        return float(Countdown().uses_the_numbers(view.answered))
    found = view.answer
    if found is None:
        return 0.0
    text = found.text.strip()
    if grader == "choice":
        return float(_is_letter(text, len(view.attempt.meta.get("choices") or [])))
    if grader == "math" and not _DIGITS.fullmatch(view.attempt.gold.strip()):
        return float(is_mathematics(text))
    return float(bool(_DIGITS.fullmatch(text)))


def _is_letter(text: str, choices: int) -> bool:
    match = re.fullmatch(r"\(?([A-Z])[).]?", text)
    return match is not None and ord(match[1]) - ord("A") < (choices or 26)


def is_mathematics(text: str) -> bool:
    """Whether a text is one short expression: one line, braces paired, no box in it, no prose."""
    if not text or len(text) > _LONGEST or "\n" in text or _BOX.search(text) or not _paired(text):
        return False
    return not _PROSE.search(_COMMAND.sub(" . ", _TEXT.sub(" . ", plain_signs(text))))


def _paired(text: str) -> bool:
    depth = 0
    for sign in re.sub(r"\\.", "", text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0:
            return False
    return depth == 0


def loose_format(view: View) -> float:
    """plain: the end marker and a \\boxed are there. xml: a quarter for each of the four tags that stands
    exactly once; that of </answer> shrinks with the text behind it."""
    if view.frame.form == "xml":
        return _tags(_whole(view))
    return float(bool(view.parts.blocks) and _BOX.search(view.attempt.text) is not None)


def _tags(text: str) -> float:
    score = 0.0
    for tag in _TAGS:
        if text.count(tag) == 1:
            behind = len(without_specials(text.partition(tag)[2])) if tag == _TAGS[-1] else 0
            score += 0.25 * max(0.0, 1 - behind / TRAILING)
    return score


def strict_format(view: View) -> float:
    """plain: the reasoning, the end marker, exactly one \\boxed behind it, whole; before the reasoning at
    most the start marker, and no other marker or box anywhere. xml: begins with a think block and then an
    answer block, each tag exactly once. Blanks at the beginning and between the blocks are free."""
    if view.frame.form == "xml":
        return float(_strict_xml(_whole(view)))
    return float(_strict_plain(view))


def _strict_plain(view: View) -> bool:
    start, end = view.frame.markers(view.attempt)
    text = view.attempt.text.strip()
    if not end:
        return False
    if text.startswith(start) and not (start == end and view.opened):
        text = text[len(start) :]
    if text.count(end) != 1 or (start != end and start in text.replace(end, "\0")):
        return False
    thought, _, answer = text.partition(end)
    boxes = len(_BOX.findall(answer))
    return not _BOX.search(thought) and boxes == 1 and last_boxed(answer) is not None


def _strict_xml(text: str) -> bool:
    """Without backtracking, so that no text takes long."""
    if any(text.count(tag) != 1 for tag in _TAGS):
        return False
    before, _, rest = text.partition(_TAGS[0])
    _, closed, rest = rest.partition(_TAGS[1])
    between, opened, rest = rest.partition(_TAGS[2])
    return not before.strip() and bool(closed and opened) and not between.strip() and _TAGS[3] in rest


def _whole(view: View) -> str:
    """The text, with the start tag that the prompt ends with."""
    text = view.attempt.text
    return _TAGS[0] + text if view.opened and _TAGS[0] not in text else text
