"""A plugin with rewards and a grader of one's own, some of which misbehave, for the tests of rewards."""

from __future__ import annotations

import os
import time
from typing import Any

from jobs.grade.protocol import Answered, Verdict
from jobs.grade.registry import register as register_grader
from jobs.grade.rewards import Attempt, register


def _act(text: str) -> Any:
    if "hang" in text:
        while True:
            time.sleep(60)
    if "die" in text:
        os._exit(3)
    if "raise" in text:
        raise RuntimeError("broken")
    if "memory" in text:
        return len(bytearray(2**40))
    for word, value in (("nan", float("nan")), ("inf", float("inf")), ("text", "0.5"), ("none", None)):
        if word in text:
            return value
    return None


class Wild:
    """Does what the text says, else its length; in a process of its own."""

    name = "wild_reward"

    def reward(self, attempt: Attempt, verdict: Verdict) -> float:
        print("noise on stdout that must not be taken for a reward")
        words = ("hang", "die", "raise", "memory", "nan", "inf", "text", "none")
        return _act(attempt.text) if any(w in attempt.text for w in words) else float(len(attempt.text))


class Here(Wild):
    """The same, here."""

    name = "wild_here"
    pooled = False


class Seen:
    """What it was shown, as one number that no other attempt gives."""

    name = "seen"

    def reward(self, attempt: Attempt, verdict: Verdict) -> float:
        shown = (
            attempt.gold,
            attempt.meta,
            attempt.markers,
            attempt.prompt,
            attempt.latents,
            attempt.truncated,
        )
        wanted = ("5", {"k": [1, 2]}, ("<think>", "</think>"), "Q", 7, True)
        return float(shown == wanted) + 10 * (attempt.tokens or 0) + 1000 * verdict.correct


class Pid:
    """Which process it runs in."""

    name = "pid"

    def reward(self, attempt: Attempt, verdict: Verdict) -> float:
        return float(os.getpid())


class Warmed:
    """Says whether it was warmed up; has little memory."""

    name = "warmed"
    memory_mb = 512
    ready = False

    def warm(self) -> None:
        self.ready = True

    def reward(self, attempt: Attempt, verdict: Verdict) -> float:
        return float(self.ready) + len(bytearray(2**30 if attempt.text == "big" else 1))


class Shaky:
    """A grader that cannot say of some texts."""

    name = "shaky"

    def grade(self, item: Answered) -> Verdict:
        if "raise" in item.text:
            raise RuntimeError("no idea")
        return Verdict("correct" if item.text == item.gold else "wrong", item.text, "compared")


class ShakyHere(Shaky):
    """The same, here."""

    name = "shaky_here"
    pooled = False


for one in (Wild(), Here(), Seen(), Pid(), Warmed()):
    register(one)
for grader in (Shaky(), ShakyHere()):
    register_grader(grader)
