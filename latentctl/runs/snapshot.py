"""The code that a run will use: found, hashed, copied into the run directory."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from latentctl.errors import UserError

PACKAGES = ("latentctl", "jobs")
_SKIP_FOLDERS = {"__pycache__", "_data", "node_modules"}
_SKIP_FILES = (
    # left behind by tools
    "*.pyc", "*.pyo", "*.so.tmp", "*.swp", "*~",
    # secret-like: a snapshot is read by whoever may read the run
    ".*", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "id_rsa*", "id_ed25519*", "id_ecdsa*", "*.secret",
    "credentials", "credentials.*", "secrets.json", "secrets.y*ml", "secrets.toml", "secrets.txt",
)  # fmt: skip
_GIT_TIMEOUT = 20
MAX_DIFF = 2_000_000
"""Bytes of a recorded diff; the snapshot holds the code itself anyway."""


@dataclass(frozen=True)
class CodeFile:
    """One file of the snapshot: where it is and where it goes below `code/`."""

    source: Path
    target: PurePosixPath

    def digest(self) -> str:
        return hashlib.sha256(self.source.read_bytes()).hexdigest()


def package_folder(name: str) -> Path:
    """Where Python would import a package from, found without importing it."""
    found = importlib.util.find_spec(name)
    places = list(found.submodule_search_locations or []) if found else []
    if not places:
        raise UserError(
            f"the package {name!r} cannot be found",
            hint="install latentctl again: `pip install .` in its checkout",
        )
    return Path(places[0]).resolve()


def git(folder: Path, *args: str) -> str | None:
    """What git says, None where it fails, is absent, or this is no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, timeout=_GIT_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")


def _ignored(package: Path) -> set[Path]:
    """Files of a package that its repository ignores. Nothing where the whole package is ignored or not in
    git, as in the site-packages of a virtual environment inside some repository."""
    if not git(package.parent, "ls-files", "--error-unmatch", f"{package.name}/__init__.py"):
        return set()
    listed = git(
        package.parent, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--", package.name
    )
    return {package.parent / name for name in (listed or "").split("\0") if name}


def _wanted(name: str) -> bool:
    return not any(fnmatch.fnmatch(name.lower(), pattern) for pattern in _SKIP_FILES)


def _walk(package: Path) -> list[CodeFile]:
    ignored = _ignored(package)
    found: list[CodeFile] = []
    for folder, folders, names in os.walk(package):
        folders[:] = sorted(f for f in folders if f not in _SKIP_FOLDERS and not f.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if _wanted(name) and path not in ignored and path.is_file():
                target = PurePosixPath(package.name, *path.relative_to(package).parts)
                found.append(CodeFile(path, target))
    return found


def code_files(plugins: Sequence[str] = ()) -> list[CodeFile]:
    """Every file of the snapshot: the packages as they are imported now, and the recipe's plugin files.

    Raises UserError for a plugin that is absent, is no Python file, or shares its name with another.
    """
    found = [f for name in PACKAGES for f in _walk(package_folder(name))]
    names: dict[str, str] = {}
    for plugin in plugins:
        path = Path(plugin).expanduser()
        if not path.is_file() or path.suffix != ".py":
            raise UserError("no such Python file", where=plugin, key="plugins")
        if path.name in names:
            raise UserError(
                f"two plugin files are called {path.name}: {names[path.name]} and {plugin}",
                key="plugins",
                hint="rename one; the snapshot keeps them side by side",
            )
        names[path.name] = plugin
        found.append(CodeFile(path.resolve(), PurePosixPath("plugins", path.name)))
    return found


def copy_code(files: Sequence[CodeFile], into: Path) -> None:
    """Lay the snapshot out below `into`. Contents and times, no permissions beyond reading."""
    for file in files:
        target = into / file.target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.source, target)


def git_state() -> dict[str, Any] | None:
    """Commit and uncommitted changes of the checkout that latentctl runs from; None without one."""
    package = package_folder("latentctl")
    root = package.parent
    if not git(root, "ls-files", "--error-unmatch", "latentctl/__init__.py"):
        return None
    commit = git(root, "rev-parse", "HEAD")
    diff = git(root, "diff", "HEAD", "--", *PACKAGES) or ""
    untracked = git(root, "ls-files", "--others", "--exclude-standard", "--", *PACKAGES) or ""
    return {
        "commit": commit.strip() if commit else None,
        "dirty": bool(diff or untracked),
        "diff": diff[:MAX_DIFF],
        "diff_cut": len(diff) > MAX_DIFF,
        "untracked": untracked.splitlines(),
    }
