"""Rewards of one's own: from a plugin file that calls `register`, or from an installed package's entry point
in the group `latentctl.rewards`."""

from __future__ import annotations

import difflib
import math
import numbers
import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

from jobs.grade.extract import shorten
from jobs.grade.protocol import Verdict
from jobs.grade.rewards.protocol import Attempt, Reward
from jobs.grade.workers import FAILED, MEMORY_MB, Workers, failure
from jobs.runtime.errors import JobUserError
from latentctl.spec.rewards import BUILT_IN, NAME

_TABLE: dict[str, Reward] = {}


def register(reward: Reward) -> Reward:
    """Make a reward known under its `name`. A plugin may not take the name of another."""
    if not re.fullmatch(NAME, reward.name):
        raise JobUserError(
            f"a reward cannot be called {reward.name!r}",
            hint="lower-case letters, digits, '.', '_' and '-', starting with a letter or digit, at most 64",
        )
    other = _TABLE.get(reward.name)
    if reward.name in BUILT_IN or (other is not None and type(other) is not type(reward)):
        raise JobUserError(f"there is already a reward {reward.name!r}", hint="give yours another name")
    _TABLE[reward.name] = reward
    return reward


def get(name: str, plugins: Iterable[str] = ()) -> Reward:
    """The reward of that name. Raises JobUserError with the names there are."""
    from jobs.data.plugins import load_plugins

    load_plugins(plugins)
    if name not in _TABLE:
        _load_entry_point(name)
    if name not in _TABLE:
        near = difflib.get_close_matches(name, _TABLE, n=1)
        there = f"there are {', '.join(_TABLE)}" if _TABLE else "no plugin or package brings any"
        hint = f"did you mean {near[0]!r}? {there}" if near else there
        raise JobUserError(f"no reward is called {name!r}", hint=hint, where="grpo.rewards.own")
    return _TABLE[name]


def _load_entry_point(name: str) -> None:
    for point in metadata.entry_points(group="latentctl.rewards", name=name):
        try:
            found = point.load()
        except Exception as error:
            raise JobUserError(f"the reward {name!r} of {point.value} does not load: {error}") from error
        register(found() if isinstance(found, type) else found)


class Runner:
    """Asks one reward of one's own about many attempts: here, or in processes of their own."""

    def __init__(
        self, name: str, *, timeout: float, workers: int | None = None, plugins: Sequence[str] = ()
    ) -> None:
        self.reward = get(name, plugins)
        self._workers: Workers | None = None
        if getattr(self.reward, "pooled", True):
            memory = int(getattr(self.reward, "memory_mb", MEMORY_MB))
            self._workers = Workers(
                "reward", name, timeout=timeout, workers=workers, plugins=plugins, memory_mb=memory
            )

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close()

    def ask(self, attempts: Sequence[tuple[Attempt, Verdict]]) -> list[float | str]:
        """A number for each, or in words why there is none."""
        if self._workers is None:
            answers = [self._here(*one) for one in attempts]
        else:
            answers = self._workers.run([_row(*one) for one in attempts])
        return [a[FAILED] if FAILED in a else a["value"] for a in answers]

    def _here(self, attempt: Attempt, verdict: Verdict) -> dict[str, Any]:
        try:
            return packed(self.reward.reward(attempt, verdict))
        except Exception as error:  # anybody's code: what it raises must not end a training
            return {FAILED: f"the reward failed: {failure(error)}"}


def packed(value: Any) -> dict[str, Any]:
    """A reward's answer as a row: a finite number, or why it is none."""
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return {"value": float(value)}
    return {FAILED: f"the reward returned {shorten(repr(value), 60)}: expected a finite number"}


def _row(attempt: Attempt, verdict: Verdict) -> dict[str, Any]:
    said = {"status": verdict.status, "extracted": verdict.extracted, "reason": verdict.reason}
    return {"attempt": attempt._asdict(), "verdict": said}


def unpacked(row: dict[str, Any]) -> tuple[Attempt, Verdict]:
    """What a reward is shown, from its row."""
    said = row["attempt"]
    return Attempt(**{**said, "markers": tuple(said["markers"])}), Verdict(**row["verdict"])
