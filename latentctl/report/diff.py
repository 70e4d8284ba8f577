"""What two runs differ in: what was asked, the code, the packages, the results."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentctl.record.atomic import try_read_json
from latentctl.record.hashes import code_files
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.report.text import clip

_RESULTS = (
    "accuracy", "loss", "reward", "steps", "n", "k", "tokens_mean", "latents_mean", "truncated", "tokens",
)  # fmt: skip
"""Numbers of a result.json that two equal runs agree in."""
_CODE_LINES = 400
_WIDTH = 80


@dataclass(frozen=True)
class Change:
    """One thing under its name, in both runs; None: not there."""

    key: str
    before: Any
    after: Any

    def dump(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True)
class Differences:
    """Between two runs."""

    spec: list[Change] = field(default_factory=list)
    """Dotted keys of what was asked, stages by their names."""
    code: list[Change] = field(default_factory=list)
    """Files of the snapshots; the first digits of their hashes."""
    environment: list[Change] = field(default_factory=list)
    """Versions of packages, the interpreter, the cluster."""
    results: list[Change] = field(default_factory=list)
    """`stage.number`."""

    @property
    def same(self) -> bool:
        """Whether the same thing was asked of the same code and packages."""
        return not (self.spec or self.code or self.environment)

    def dump(self) -> dict[str, Any]:
        return {name: [change.dump() for change in changes] for name, changes in vars(self).items()}


def differences(a: RunPaths, b: RunPaths) -> Differences:
    """Raises nothing for what is missing in a run: it counts as not there."""
    return Differences(
        spec=_between(_asked(a), _asked(b)),
        code=_between(_files(a), _files(b)),
        environment=_between(_environment(a), _environment(b)),
        results=_between(_results(a), _results(b)),
    )


def text(found: Differences, names: tuple[str, str]) -> str:
    """For a terminal of 80 columns."""
    lines = [f"a  {names[0]}", f"b  {names[1]}"]
    for title, changes in (
        ("asked", found.spec),
        ("code", found.code),
        ("environment", found.environment),
        ("results", found.results),
    ):
        lines.append(f"\n{title}: {'the same' if not changes else f'{len(changes):,} differ'}")
        width = min(36, max((len(c.key) for c in changes), default=0))
        for change in changes:
            said = f"{_shown(change.before)} → {_shown(change.after)}"
            lines.append(clip(f"  {clip(change.key, width):<{width}}  {said}", _WIDTH))
    return "\n".join(lines)


def code_diff(a: RunPaths, b: RunPaths, changes: list[Change]) -> Iterator[str]:
    """Lines of the changed files, in the form of `diff -u`; at most some hundred."""
    left = _CODE_LINES
    for change in changes:
        old, new = (_lines(run.code / change.key) for run in (a, b))
        for line in difflib.unified_diff(old, new, f"a/{change.key}", f"b/{change.key}", lineterm=""):
            if left == 0:
                yield f"[cut after {_CODE_LINES} lines]"
                return
            left -= 1
            yield line


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8", "replace").splitlines() if path.is_file() else []


def _between(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    keys = dict.fromkeys([*before, *after])
    return [Change(k, before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)]


def _asked(run: RunPaths) -> dict[str, Any]:
    experiment = (try_read_json(run.spec) or {}).get("experiment") or {}
    return dict(_flat(experiment, "")) if experiment else {}


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Leaves by dotted keys; members of a list by their name where they have one, else by their place."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        for i, one in enumerate(value):
            name = one.get("name", i) if isinstance(one, Mapping) else i
            yield from _flat(one, f"{prefix}.{name}")
    else:
        yield prefix, value


def _files(run: RunPaths) -> dict[str, str]:
    return {str(at): hashlib.sha256(path.read_bytes()).hexdigest()[:8] for at, path in code_files(run.code)}


def _environment(run: RunPaths) -> dict[str, Any]:
    lock = try_read_json(run.lock) or {}
    python = (lock.get("python") or {}).get("version")
    own = {"python": python, "latentctl": lock.get("latentctl"), "cluster": lock.get("cluster")}
    return {**own, **(lock.get("packages") or {})}


def _results(run: RunPaths) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for job in Plan.load(run.plan).jobs:
        for stage in job.stages:
            result = try_read_json(run.job(job.name).stage(stage).result) or {}
            found |= {f"{stage}.{k}": result[k] for k in _RESULTS if result.get(k) is not None}
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
