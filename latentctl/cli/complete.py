"""What a shell offers after TAB: names on the disk. No scheduler is asked, and no recipe is read."""

from __future__ import annotations

from pathlib import Path

import typer

from latentctl.cli import output

LAST = "@last"


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Runs and sweeps, newest first."""
    said = ctx.params.get("runs_dir")
    root = output.runs_dir(Path(said) if said else None)
    try:
        folders = [p for p in root.iterdir() if not p.name.startswith(".") and (p / "plan.json").is_file()]
        folders += [p.parent for p in root.glob("sweeps/*/sweep.json")]
        newest = sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True)
    except OSError:
        return []
    return [name for name in (*(p.name for p in newest), LAST) if name.startswith(incomplete)]


def clusters(incomplete: str) -> list[str]:
    """Cluster profiles by name."""
    from latentctl.spec.profiles import list_profiles

    return [name for name in list_profiles() if name.startswith(incomplete)]
