"""Rewards for how long is thought, latently or in words, and how long and how settled the answer is."""

from __future__ import annotations

import re

from jobs.grade.rewards.view import View

LONG_THOUGHT = 500
"""Latent steps, or words, from which on more of them are worth no more."""
_HEX = re.compile(r"[0-9a-f]{40}")
_DOUBTS = re.compile(r"hmm|wait,|okay,|i need", re.IGNORECASE)


def latent_len(*, correct: bool, latents: int, longest: int) -> float:
    """r = latents / longest, at most 1. Right: 1 up to r = 0.5, then down to 0. Wrong: -1 for none, rising
    to 0 at r = 0.9."""
    r = min(latents / longest, 1.0)
    return 1 - max((r - 0.5) / 0.5, 0.0) if correct else min((r - 0.9) / 0.9, 0.0)


def answer_len(view: View, *, reasoning: bool) -> float:
    """Of the words behind the reasoning. A reasoning model: words / 100 below 30 of them, 1 from 30 to 1000,
    then down to 0 at 2000. Others: 1 below 30 words, else 0. 0 where no reasoning ended."""
    after = view.after
    if after is None:
        return 0.0
    words = len(after.split())
    if not reasoning:
        return float(words < 30)
    if words < 30:
        return words / 100
    return min(1.0, max(0.0, (2000 - words) / 1000))


def answer_no_think(view: View) -> float:
    """1 less a fifth for each "hmm", "wait,", "okay," and "i need" in the answer, in upper or lower case, not
    below 0; 0 without an answer."""
    found = view.answer
    return 0.0 if found is None else max(0.0, 1 - len(_DOUBTS.findall(found.text)) / 5)


def response_think(view: View) -> float:
    """Latent steps, where any were taken, else the words of the first reasoning block, over 500, at most 1.
    0 where the block lacks its end, or its start: unless that stands in the prompt."""
    found = view.parts
    if view.hidden_span:
        amount = view.attempt.latents
    elif not found.blocks or (found.headless and not view.opened):
        return 0.0
    elif view.attempt.latents:
        amount = view.attempt.latents
    else:
        amount = len(_without_markers(found.blocks[0], view).split())
    return min(amount / LONG_THOUGHT, 1.0)


def _without_markers(text: str, view: View) -> str:
    """Markers of nested blocks are no words."""
    for marker in view.frame.markers(view.attempt):
        text = text.replace(marker, " ") if marker else text
    return text


def is_reasoning(model: str | None) -> bool:
    """Whether a model of this name or path writes long answers after its reasoning by itself: its name has
    `qwen3` or `deepseek` in it, and no `base`. The folder of a Hub snapshot is named by its repository."""
    parts = [p for p in (model or "").lower().replace("\\", "/").split("/") if p]
    if len(parts) > 2 and _HEX.fullmatch(parts[-1]):
        parts = parts[:-2]
    name = parts[-1] if parts else ""
    return ("qwen3" in name or "deepseek" in name) and "base" not in name
