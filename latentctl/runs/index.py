"""Finding runs: all of them, or the one that a few letters mean. Reads names and times only."""

from __future__ import annotations

import difflib
from pathlib import Path

from latentctl.errors import Exit, UserError
from latentctl.record.paths import RunPaths

LAST = "@last"
_SHOWN = 8


def all_runs(runs_dir: Path) -> list[RunPaths]:
    """Every run, newest first. A folder is a run once it has a plan; hidden ones are being built or
    removed."""
    if not runs_dir.is_dir():
        return []
    found: list[tuple[int, str, Path]] = []
    for path in runs_dir.iterdir():
        if path.name.startswith(".") or path.name == "sweeps":
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


def _no_runs(runs_dir: Path) -> UserError:
    return UserError(
        f"no runs in {runs_dir}",
        hint="start one with `latentctl submit RECIPE`, or name the folder with --runs-dir",
        code=Exit.NOT_FOUND,
        kind="not_found",
    )
