"""Slurm's programs as shell scripts: for answers that real daemons do not give on demand."""

from __future__ import annotations

from pathlib import Path


def program(folder: Path, name: str, body: str) -> Path:
    """A fake program that first logs its arguments to `<name>.log`."""
    path = folder / name
    path.write_text(f'#!/bin/bash\necho "$*" >> "{folder}/{name}.log"\n{body}\n')
    path.chmod(0o755)
    return path


def calls(folder: Path, name: str) -> list[str]:
    log = folder / f"{name}.log"
    return log.read_text().splitlines() if log.exists() else []
