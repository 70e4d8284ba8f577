"""Rules for failures from YAML: those that come with latentctl, and what a cluster profile adds."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import yaml

from latentctl.faults.rules import Action, Rule, Rules, compiled

HERE = Path(__file__).parent


@functools.cache
def shipped() -> tuple[Rule, ...]:
    """In the order in which they are tried: by the numbers of their files."""
    return tuple(_rule(raw, path.name) for path in files() for raw in yaml.safe_load(path.read_text("utf-8")))


def files() -> list[Path]:
    return sorted(HERE.glob("*.yaml"))


def resolved(faults: dict[str, Any] | None, *, source: str = "the cluster profile") -> Rules:
    """With a profile's `faults` (`FaultsSpec.model_dump()`): its own rules first, its actions instead of
    ours."""
    said = faults or {}
    actions: dict[str, Action] = said.get("actions") or {}
    own = [_rule(raw, source) for raw in said.get("rules") or []]
    rules = [_with_action(rule, actions) for rule in (*own, *shipped())]
    return Rules(tuple(rules), int(said.get("retries", 0)), float(said.get("exclude_for", 0.0)))


def _with_action(rule: Rule, actions: dict[str, Action]) -> Rule:
    action = actions.get(rule.name) or actions.get(rule.kind)
    return rule if action is None else Rule(**{**vars(rule), "action": action})


def _rule(raw: dict[str, Any], source: str) -> Rule:
    rest = {k: v for k, v in raw.items() if k not in ("class", "kind", "patterns") and v is not None}
    kind = raw.get("class") or raw["kind"]
    return Rule(kind=kind, patterns=compiled(raw["patterns"]), source=source, **rest)


def wrong_pattern(text: str) -> str | None:
    """Why a pattern is none."""
    try:
        re.compile(text)
    except re.error as error:
        return str(error)
    return None
