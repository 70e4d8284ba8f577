"""Rules for failures, as a job reads them: patterns, a class, an action. Standard library alone.

They are written as YAML (`*.yaml` here, `faults.rules` of a cluster profile), resolved when a run is created
and kept in its `faults.json`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from latentctl.record.atomic import json_text, read_json, write_text

Action = Literal["stop", "requeue", "requeue_elsewhere", "smaller_micro_batch"]
"""`requeue_elsewhere`: and the node is left out for a while. `smaller_micro_batch`: half of it, at the same
global batch."""
ACTIONS: tuple[Action, ...] = get_args(Action)
_EVIDENCE = 8
_LINE = 400


@dataclass(frozen=True)
class Rule:
    """One kind of failure."""

    name: str
    kind: str
    """Its class."""
    patterns: tuple[re.Pattern[str], ...]
    """Searched line by line, whatever the case; of an exception in "Type: message"."""
    action: Action = "stop"
    primary: bool = True
    """False where it looks like the consequence of another rank's failure."""
    hint: str | None = None
    wait: float = 0.0
    """Seconds before the first retry; each further one waits twice as long."""
    source: str = ""
    """The file that says so."""

    def matches(self, line: str) -> bool:
        return any(pattern.search(line) for pattern in self.patterns)

    def dump(self) -> dict[str, Any]:
        """For faults.json."""
        return {**vars(self), "patterns": [pattern.pattern for pattern in self.patterns]}

    @staticmethod
    def load(raw: dict[str, Any]) -> Rule:
        return Rule(**{**raw, "patterns": compiled(raw["patterns"])})


@dataclass(frozen=True)
class Match:
    """The rule that fired, and the lines that made it."""

    rule: Rule
    lines: list[str]
    """The first first, at most eight."""


@dataclass(frozen=True)
class Rules:
    """In order: what is more telling stands higher."""

    rules: tuple[Rule, ...] = ()
    retries: int = 0
    """So many attempts after failures, of a job whose rules say so."""
    exclude_s: float = 0.0
    """For so long a node is left out."""

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def match(self, lines: Iterable[str]) -> Match | None:
        """The first rule in order of which any line speaks. Where that is a mere consequence, a cause of
        another class that other lines speak of goes before it."""
        held = list(lines)
        found = self._first(held)
        if found is None or found.rule.primary:
            return found
        owned = ((line, self._own(line)) for line in held)
        causes = [line for line, own in owned if own and own.primary and own.kind != found.rule.kind]
        return self._first(causes) or found

    def _first(self, lines: Sequence[str]) -> Match | None:
        for rule in self.rules:
            said = [line for line in lines if rule.matches(line)]
            if said:
                return Match(rule, [cut(line) for line in said[:_EVIDENCE]])
        return None

    def _own(self, line: str) -> Rule | None:
        """What a line by itself speaks of."""
        return next((rule for rule in self.rules if rule.matches(line)), None)

    def text(self) -> str:
        """As JSON."""
        rules = [rule.dump() for rule in self.rules]
        return json_text({"retries": self.retries, "exclude_s": self.exclude_s, "rules": rules})

    def save(self, path: Path) -> None:
        write_text(path, self.text())

    @staticmethod
    def load(path: Path) -> Rules:
        raw = read_json(path)
        return Rules(tuple(map(Rule.load, raw["rules"])), raw["retries"], raw["exclude_s"])


def compiled(patterns: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    """Raises re.error."""
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


def cut(line: str) -> str:
    line = line.strip()
    return line if len(line) <= _LINE else line[: _LINE - 1] + "…"
