"""Failures of a job: the error that a person can mend, and what kind an exception is. Free of torch."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from latentctl.errors import UserError
from latentctl.faults.rules import Rules, cut
from latentctl.record.attempt import StaleAttempt
from latentctl.record.journal import now

FailureClass = Literal[
    "user_error", "out_of_memory", "nccl", "node", "disk", "data", "preemption", "code", "unknown"
]
"""`nccl` stands for every collective library, gloo too; `disk` for every storage, network ones too."""

_MAX_EVIDENCE = 8


class JobUserError(Exception):
    """Something in a job that a person can mend: shown in one line with a hint, without a traceback.

    `where` is a file (with line), a key of the recipe or a path.
    """

    def __init__(self, message: str, hint: str | None = None, where: str | None = None) -> None:
        self.message = message
        self.hint = hint
        self.where = where
        super().__init__(f"{where}: {message}" if where else message)


@dataclass(frozen=True)
class Failure:
    """Why a rank failed, with the lines that show it."""

    kind: str
    """Of `FailureClass`, or what a rule of a cluster profile says."""
    message: str
    evidence: list[str] = field(default_factory=list)
    primary: bool = True
    """False where it looks like the consequence of another rank's failure (its connection went away)."""
    hint: str | None = None
    where: str | None = None
    rule: str | None = None
    """The rule of `latentctl/faults` that fired."""

    def record(self, rank: int) -> dict[str, Any]:
        """The content of `failure-<rank>.json`."""
        return {
            "class": self.kind,
            "message": self.message,
            "evidence": self.evidence,
            "rank": rank,
            "time": now(),
            "primary": self.primary,
            "hint": self.hint,
            "where": self.where,
            "rule": self.rule,
        }


_TRAIN_EXTRA = {
    "torch", "transformers", "deepspeed", "datasets", "peft", "safetensors", "math_verify", "numpy",
}  # fmt: skip


def classify(exc: BaseException, rules: Rules | None = None) -> Failure:
    """What kind of failure an exception is, by the rules of a run, else those of `latentctl/faults`.

    Looks at the exception and at those it came from: the error that a clean-up step met while another one was
    on its way (a barrier after a failed step) never hides the first.
    """
    if rules is None:
        from latentctl.faults.load import resolved

        rules = resolved(None)
    chain = list(_chain(exc))
    found = [_one(e, rules) for e in chain]
    telling = [f for f in found if f.primary and f.kind not in ("code", "unknown")]
    if telling:
        return telling[0]
    if not found[0].primary and (behind := next((f for f in found if f.primary), None)):
        return behind
    return found[0]


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Newest first; contexts that `raise ... from` replaced are left out, as in a traceback."""
    seen: set[int] = set()
    at: BaseException | None = exc
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def _one(exc: BaseException, rules: Rules) -> Failure:
    name = type(exc).__name__
    text = f"{name}: {exc}" if str(exc) else name
    if isinstance(exc, JobUserError):
        shown = [exc.where] if exc.where else []
        return Failure("user_error", exc.message, shown, hint=exc.hint, where=exc.where)
    if isinstance(exc, UserError):
        first = exc.problems[0]
        return Failure(
            "user_error", str(exc), [p.text() for p in exc.problems][:_MAX_EVIDENCE], hint=first.hint
        )
    if isinstance(exc, StaleAttempt):
        return Failure("preemption", str(exc), [cut(text)], primary=False)
    if isinstance(exc, KeyboardInterrupt):
        return Failure("preemption", "interrupted", [name])
    if isinstance(exc, ModuleNotFoundError) and (exc.name or "").split(".")[0] in _TRAIN_EXTRA:
        hint = "pip install 'latentctl[train]', or name a python that has it in the cluster profile"
        message = f"{exc.name} is not installed in {sys.executable}"
        return Failure("user_error", message, [cut(text)], hint=hint)
    lines = text.splitlines()
    if isinstance(exc, OSError) and exc.errno is not None:
        lines.append(f"{name}: {os.strerror(exc.errno)}")  # which its own words may leave out
    match = rules.match(lines)
    if match is not None and match.rule.kind != "code":
        rule = match.rule
        shown = [match.lines[0], *_frames(exc)]
        return Failure(
            rule.kind, _first_line(text), shown, primary=rule.primary, hint=rule.hint, rule=rule.name
        )
    kind: FailureClass = "code" if isinstance(exc, Exception) else "unknown"
    return Failure(kind, _first_line(text), [*_frames(exc), cut(text)])


def _frames(exc: BaseException) -> list[str]:
    """The last places of the traceback, outermost first, one line each."""
    frames = traceback.extract_tb(exc.__traceback__)[-3:]
    return [
        cut(f"{Path(f.filename).name}:{f.lineno} in {f.name}" + (f": {f.line}" if f.line else ""))
        for f in frames
    ]


def _first_line(text: str) -> str:
    return cut(next((li for li in text.splitlines() if li.strip()), text))
