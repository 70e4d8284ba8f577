"""What a stage's `from` says, taken apart: one reading for the check, the plan and the worker."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Source:
    """Where the weights of a stage come from."""

    kind: Literal["model", "stage", "run", "path"]
    """`model`: the recipe's own model; `stage`: an earlier stage of this run; `run`: a stage of another run;
    `path`: a directory."""
    stage: str | None = None
    """For `stage`, and for `run` where the reference names one (unsaid: that run's last stage with
    weights)."""
    which: str | None = None
    """`best`, or the number of a step; None: the last weights."""
    run: str | None = None
    path: str | None = None


def parse_source(text: str, stages: Collection[str]) -> Source:
    """Read `model`, `STAGE[@best|@STEP]`, `run:ID[/STAGE][@best|@STEP]` or a directory.

    `stages` are the names of the recipe's stages; whatever is none of the other forms is a directory.
    """
    if text == "model":
        return Source("model")
    head, _, which = text.partition("@")
    if head in stages:
        return Source("stage", stage=head, which=which or None)
    if text.startswith("run:"):
        run, _, stage = head.removeprefix("run:").partition("/")
        return Source("run", run=run, stage=stage or None, which=which or None)
    return Source("path", path=text)
