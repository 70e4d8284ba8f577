"""Checkpoints that nobody needs any more: a whole, later one of the same spec stands beside, and nothing
refers to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from latentctl.record import checkpoint
from latentctl.record.atomic import try_read_json
from latentctl.record.paths import RunPaths, StagePaths
from latentctl.record.states import TERMINAL
from latentctl.runs.view import JobView, RunView
from latentctl.spec.source import parse_source

_PATH = re.compile(r"([^/]+)/jobs/[^/]+/stages/([^/]+)/checkpoints/step-(\d+)")


class Reference(NamedTuple):
    """A checkpoint that a spec names. `run` may be a prefix of an id; no stage: any stage of the run."""

    run: str
    stage: str | None
    step: int


@dataclass(frozen=True)
class Garbage:
    """A checkpoint to delete."""

    run: RunPaths
    stage: str
    step: int
    path: Path
    bytes: int
    """What is free once it is gone: files that a model of the stage shares are not counted."""


def references(runs: Iterable[RunPaths]) -> list[Reference]:
    """Every step of a stage that a spec of these runs names, in whichever of its settings, or by its path."""
    found: list[Reference] = []
    for run in runs:
        experiment = (try_read_json(run.spec) or {}).get("experiment") or {}
        names = [s.get("name") for s in experiment.get("stages") or []]
        for text in _strings(experiment):
            source = parse_source(text, names)
            if source.which and source.which.isdecimal():
                found.append(Reference(source.run or run.id, source.stage, int(source.which)))
            found += [Reference(m[1], m[2], int(m[3])) for m in _PATH.finditer(text)]
    return found


def garbage(views: Iterable[RunView], wanted: Iterable[Reference]) -> Iterator[Garbage]:
    """Of the jobs that have ended. `wanted` are the references of every run that may need one of them."""
    wanted = list(wanted)
    for view in views:
        for job in view.jobs:
            if job.state in TERMINAL:
                yield from _of_job(view.run, job, wanted)


def _of_job(run: RunPaths, job: JobView, wanted: list[Reference]) -> Iterator[Garbage]:
    for name in job.plan.stages:
        stage = run.job(job.name).stage(name)
        whole = checkpoint.whole(stage)
        kept = _published(stage)
        newest = {c.spec_hash: c.step for c in whole}
        for found in whole:
            named = any(
                r.step == found.step and r.stage in (None, name) and run.id.startswith(r.run) for r in wanted
            )
            if not named and found.step not in kept and found.step < newest[found.spec_hash]:
                yield Garbage(run, name, found.step, found.path, _size(found.path))


def _published(stage: StagePaths) -> set[Any]:
    """Steps whose weights stand as `model` and `best`: a later stage may also take their optimizer's."""
    return {(try_read_json(folder / "latent.json") or {}).get("step") for folder in (stage.model, stage.best)}


def _size(folder: Path) -> int:
    """Bytes of the files that have no other name."""
    found = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(s.st_size for s in found if s.st_nlink == 1)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
