"""The files of an evaluation as they are, finished or not: its samples and the traces of their latent
steps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentctl.errors import Exit, UserError
from latentctl.record.atomic import try_read_json
from latentctl.record.paths import RunPaths, StagePaths
from latentctl.record.plan import Plan
from latentctl.runs.index import find_run

Row = dict[str, Any]
_SHOWN = ("eval", "divergence-data", "grpo")
"""Methods whose samples are kept; of a training some rollouts."""
_PLACE = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*"), "index": (\d+)')
"""How a line begins as our own writer lays it out: its sample, without reading the rest."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation stage of a run, and what it has left so far."""

    run: RunPaths
    stage: str
    spec: dict[str, Any]
    """The stage in spec.json; its `method` may also be a training, whose rollouts these are."""
    paths: StagePaths
    rows: list[Row]
    """Samples in the order of the file; those of all ranks where the evaluation has not merged them yet."""
    graded: bool
    """All has been judged that will be."""
    others: list[str]
    """The run's other evaluations that have samples."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know of the files: damaged lines, an evaluation that still runs."""

    @property
    def name(self) -> str:
        return f"{self.run.id}/{self.stage}"

    def result(self) -> dict[str, Any]:
        """result.json; empty where the evaluation has not ended."""
        return try_read_json(self.paths.result) or {}

    def trace(self, id: str, index: int) -> Row | None:
        """The trace of one sample. Damaged lines are passed over."""
        for place, line in self._trace_lines():
            if place in (None, (id, index)):
                row = _row(line)
                if row is not None and (row["id"], row["index"]) == (id, index):
                    return row
        return None

    def traces(self) -> Iterator[Row]:
        """Every trace, one at a time: thousands of steps each."""
        for _, line in self._trace_lines():
            row = _row(line)
            if row is not None:
                yield row

    def _trace_lines(self) -> Iterator[tuple[tuple[str, int] | None, bytes]]:
        """(sample if the line says it at once, line)."""
        merged = self.paths.traces
        parts = sorted(self.paths.rank_samples(0).parent.glob("traces-*.jsonl"))
        for path in [merged] if merged.is_file() else parts:
            with open(path, "rb") as lines:
                for line in lines:
                    said = _PLACE.match(line)
                    yield (json.loads(said[1]), int(said[2])) if said else None, line


def find(runs_dir: Path, text: str, *, like: str | None = None) -> Evaluation:
    """The evaluation that `RUN[/STAGE]` means: without a stage, the one named `like`, else the run's last
    one; of those that have samples. Where no evaluation has any, other stages that do.

    RUN is an id, a prefix, `@last`, or the folder of a run. Raises UserError with code 3 where there is no
    such run or stage, where it leaves no samples, and where there are none yet.
    """
    run, asked = _taken_apart(runs_dir, text)
    plan = Plan.load(run.plan)
    stages = ((try_read_json(run.spec) or {}).get("experiment") or {}).get("stages", [])
    planned = {s for job in plan.jobs for s in job.stages}
    shown = {s["name"]: s for s in stages if s.get("method") in _SHOWN and s["name"] in planned}
    if asked is not None and asked not in shown:
        what = (
            f"stage {asked} of {run.id} leaves no samples"
            if asked in planned
            else f"{run.id} has no stage {asked!r}"
        )
        raise _not_found(what, f"stages with samples: {', '.join(shown) or 'none'}")
    if not shown:
        raise _not_found(
            f"{run.id} has no evaluation",
            f"evaluate it first: latentctl eval --checkpoint {run.id} --dataset NAME",
        )
    paths = {name: run.job(plan.job_of(name).name).stage(name) for name in shown}
    filled = [name for name in shown if _files(paths[name])]
    evals = [name for name in filled if shown[name]["method"] == "eval"]
    name = asked or ([n for n in filled if n == like] or evals or filled or [*shown])[-1]
    others = [n for n in filled if n != name]
    notes: list[str] = []
    rows = list(_rows(_files(paths[name]), notes))
    if not rows:
        there = f"; stages with samples: {', '.join(others)}" if others else ""
        raise _not_found(
            f"{run.id}/{name} has no samples yet", f"`latentctl status {run.id}` says how far it is{there}"
        )
    graded = paths[name].samples.is_file() or shown[name]["method"] == "grpo"
    if not graded:
        so_far = f"{len(rows):,} samples so far, none graded"
        notes.append(f"{run.id}/{name} has not ended: {so_far} (latentctl status {run.id})")
    return Evaluation(run, name, shown[name], paths[name], rows, graded, others, notes)


def _taken_apart(runs_dir: Path, text: str) -> tuple[RunPaths, str | None]:
    path = Path(text).expanduser().absolute()
    if (path / "plan.json").is_file():
        return RunPaths(path), None
    if (path.parent / "plan.json").is_file():
        return RunPaths(path.parent), path.name
    name, _, stage = text.partition("/")
    return find_run(runs_dir, name), stage or None


def _files(paths: StagePaths) -> list[Path]:
    """The merged samples, or the rollouts of a training; else the ranks' own."""
    for whole in (paths.samples, paths.rollouts):
        if whole.is_file():
            return [whole]
    return sorted(paths.rank_samples(0).parent.glob("rank-*.jsonl"))


def _rows(files: list[Path], notes: list[str]) -> Iterator[Row]:
    """Each sample once. A last line without its end is being written, or was torn by a kill: no damage."""
    seen: set[tuple[str, int]] = set()
    for path in files:
        damaged = []
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                row = _row(line)
                if row is None:
                    if line.strip() and line.endswith(b"\n"):
                        damaged.append(number)
                elif (row["id"], row["index"]) not in seen:
                    seen.add((row["id"], row["index"]))
                    yield row
        if damaged:
            many = f" and {len(damaged) - 1:,} more lines" if len(damaged) > 1 else ""
            notes.append(f"{path}:{damaged[0]}{many}: not a sample, left out")


def _row(line: bytes) -> Row | None:
    """The object of a line that names its sample; None for anything else."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    named = isinstance(row, dict) and isinstance(row.get("id"), str) and isinstance(row.get("index"), int)
    return row if named else None


def _not_found(message: str, hint: str) -> UserError:
    return UserError(message, hint=hint, code=Exit.NOT_FOUND, kind="not_found")
