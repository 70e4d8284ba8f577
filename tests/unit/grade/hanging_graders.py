"""A plugin with graders that misbehave, for the pool's tests."""

from __future__ import annotations

import os
import time

from jobs.grade.protocol import Answered, Verdict
from jobs.grade.registry import register


class Wild:
    """Does what the text says."""

    name = "wild"

    def grade(self, item: Answered) -> Verdict:
        print("noise on stdout that must not be taken for a verdict")
        if item.text == "hang":
            while True:
                time.sleep(60)
        if item.text == "spin":
            return Verdict("wrong", str(9**9**9 % 7), "never reached")
        if item.text == "die":
            os._exit(3)
        if item.text == "raise":
            raise RuntimeError("broken")
        if item.text == "memory":
            return Verdict("wrong", str(len(bytearray(2**40))), "never reached")
        return Verdict("correct" if item.text == item.gold else "wrong", item.text, f"pid {os.getpid()}")


register(Wild())
