"""Finding runs: all of them, or the one that a few letters mean. Reads names and times only."""

from __future__ import annotations

import difflib
from pathlib import Path

from latentctl.errors import Exit, UserError
from latentctl.record.atomic import try_read_json
from latentctl.record.paths import RunPaths

LAST = "@last"
SWEEPS = "sweeps"
_SHOWN = 8


def all_runs(runs_dir: Path) -> list[RunPaths]:
    """Every run, newest first. A folder is a run once it has a plan; hidden ones are being built or
    removed."""
    if not runs_dir.is_dir():
        return []
    found: list[tuple[int, str, Path]] = []
    for path in runs_dir.iterdir():
        if path.name.startswith(".") or path.name == SWEEPS:
            continue
        try:
            made = (path / "plan.json").stat().st_mtime_ns
        except OSError:
            continue
        found.append((made, path.name, path))
    return [RunPaths(path) for _, _, path in sorted(found, reverse=True)]


def find_run(runs_dir: Path, text: str) -> RunPaths:
    """The run of that id, of that unambiguous prefix, or the newest for `@last`.

    Raises UserError with code 3: not found, with the nearest names, or ambiguous, with the candidates.
    """
    runs = all_runs(runs_dir)
    if text == LAST:
        if not runs:
            raise _no_runs(runs_dir)
        return runs[0]
    by_id = {run.id: run for run in runs}
    if text in by_id:
        return by_id[text]
    matching = sorted(name for name in by_id if text and name.startswith(text))
    if len(matching) == 1:
        return by_id[matching[0]]
    if matching:
        shown = ", ".join(matching[:_SHOWN]) + (", ..." if len(matching) > _SHOWN else "")
        raise UserError(
            f"{text!r} is ambiguous: {len(matching)} runs start with it",
            hint=f"one of {shown}",
            code=Exit.NOT_FOUND,
            kind="ambiguous",
        )
    if not runs:
        raise _no_runs(runs_dir)
    near = difflib.get_close_matches(text, list(by_id), n=3, cutoff=0.5) or [r.id for r in runs[:3]]
    raise UserError(
        f"no run {text!r} in {runs_dir}",
        hint=f"did you mean {' or '.join(near)}? `latentctl status --all` lists them",
        code=Exit.NOT_FOUND,
        kind="not_found",
    )


def sweep_points(runs_dir: Path, text: str) -> list[RunPaths] | None:
    """The runs of the sweep of that id or prefix; None where no sweep is called so."""
    folder = runs_dir / SWEEPS
    if not folder.is_dir() or not text or "/" in text:
        return None
    matching = sorted(p for p in folder.glob("*/sweep.json") if p.parent.name.startswith(text))
    exact = [p for p in matching if p.parent.name == text]
    chosen = exact or matching
    if len(chosen) != 1:
        return None
    points = (try_read_json(chosen[0]) or {}).get("points", [])
    return [RunPaths(runs_dir / p["run"]) for p in points if (runs_dir / p["run"] / "plan.json").is_file()]


def select(runs_dir: Path, names: list[str]) -> list[RunPaths]:
    """The runs that the names mean, a sweep's name standing for its points; without doubles, in the order
    given."""
    found: dict[str, RunPaths] = {}
    for text in names:
        try:
            chosen = [find_run(runs_dir, text)]
        except UserError:
            points = sweep_points(runs_dir, text)
            if points is None:
                raise
            chosen = points
        found.update({run.id: run for run in chosen})
    return list(found.values())


def _no_runs(runs_dir: Path) -> UserError:
    return UserError(
        f"no runs in {runs_dir}",
        hint="start one with `latentctl submit RECIPE`, or name the folder with --runs-dir",
        code=Exit.NOT_FOUND,
        kind="not_found",
    )
