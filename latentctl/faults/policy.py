"""What follows a failure: the job ends, or is started again. Standard library alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latentctl.faults.rules import Action, Rule, Rules

_NEVER = ("user_error", "code")
"""The same again: what a person must mend, and errors of the program."""
LONGEST_S = 1800.0
_SAID: dict[Action, str] = {
    "stop": "",
    "requeue": "started again",
    "requeue_elsewhere": "started again on other nodes",
    "smaller_micro_batch": "started again with a smaller micro-batch",
}


@dataclass(frozen=True)
class Decision:
    """About one failed attempt."""

    action: Action
    rule: Rule | None
    retry: int
    """Which one it would be, from 1."""
    of: int

    @property
    def wait(self) -> float:
        """Seconds before it: a server that is busy wants to be left alone for longer each time."""
        first = self.rule.wait if self.rule is not None and self.again else 0.0
        return min(LONGEST_S, first * 2 ** (self.retry - 1))

    @property
    def again(self) -> bool:
        return self.action != "stop" and self.retry <= self.of

    @property
    def words(self) -> str:
        """What is done, or why it is not."""
        if self.again:
            later = f" in {self.wait:g} s" if self.wait else ""
            return f"{_SAID[self.action]}{later} (retry {self.retry} of {self.of})"
        if self.action != "stop" and self.of:
            return f"failed after {self.of} retr{'y' if self.of == 1 else 'ies'}"
        return ""


def decide(
    rules: Rules, *, kind: str | None, rule: str | None, lines: Sequence[str], before: int
) -> Decision:
    """`kind`, `rule`: of the failure as its worker saw it; `lines`: its message and evidence, which speak
    where the worker could not; `before`: retries so far."""
    if kind in _NEVER:
        return Decision("stop", None, before + 1, rules.retries)
    found = next((r for r in rules if r.name == rule), None)
    if found is None:
        match = rules.match(lines)
        found = None if match is None else match.rule
    if found is None or found.kind in _NEVER:
        return Decision("stop", found, before + 1, rules.retries)
    return Decision(found.action, found, before + 1, rules.retries)
