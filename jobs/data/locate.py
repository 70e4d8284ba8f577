"""Where a dataset lies: the recipe's path, the cluster's data folder, LATENTCTL_DATA, else its Hub id."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from jobs.data.registry import Files
from jobs.data.rows import SUFFIXES, suffix
from jobs.runtime.errors import JobUserError

ENV = "LATENTCTL_DATA"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Place:
    """Local `files`, read in this order, or a Hub `hub` id with config and split."""

    files: tuple[Path, ...] = ()
    hub: tuple[str, str | None, str] | None = None
    looked: tuple[str, ...] = ()
    """Folders that did not have it."""

    @property
    def name(self) -> str:
        """A name for a dataset that has none: the file's stem, or the last part of the Hub id."""
        if self.hub:
            return self.hub[0].rpartition("/")[2]
        return self.files[0].name.partition(".")[0]

    def __str__(self) -> str:
        if self.hub:
            name, config, split = self.hub
            return f"{name}{f' ({config})' if config else ''}, split {split}, from the Hub"
        return ", ".join(map(str, self.files))


def locate(entry: Files | None, path: str | None, split: str, data_dir: str | None) -> Place:
    """Find the files of one split.

    Raises JobUserError that says where it looked and how to point at a file.
    """
    if path is not None:
        return _given(entry, path, split)
    assert entry is not None
    if split not in entry.files:
        raise JobUserError(
            f"{entry.name} has no split {split!r}", hint=f"splits: {', '.join(entry.files)}; or give a path"
        )
    looked: list[str] = []
    for base in (data_dir, os.environ.get(ENV)):
        if not base:
            continue
        for name in dict.fromkeys((entry.name, *entry.folders)):
            folder = Path(base).expanduser() / name
            looked.append(str(folder))
            if folder.is_dir() and (files := in_folder(folder, entry, split)):
                return Place(files)
    if split in entry.hub:
        return Place(hub=entry.hub[split], looked=tuple(looked))
    where = f"looked in {', '.join(looked)}" if looked else f"neither data_dir nor {ENV} is set"
    raise JobUserError(
        f"the {split} split of {entry.name} is not here ({where})",
        hint=f"point at a file: dataset: {{name: {entry.name}, path: FILE}}; "
        f"or put it into <data_dir>/{entry.name}/ or ${ENV}/{entry.name}/",
    )


def _given(entry: Files | None, path: str, split: str) -> Place:
    local = Path(path).expanduser()
    if local.is_file():
        return Place((local,))
    if local.is_dir():
        if files := in_folder(local, entry, split):
            return Place(files)
        there = ", ".join(sorted(p.name for p in local.iterdir() if suffix(p))[:8]) or "no data file at all"
        raise JobUserError(
            f"no file of the split {split!r} in {local} (there is: {there})", hint="name the file itself"
        )
    if _HUB_ID.fullmatch(path) and not suffix(local) and not path.startswith(("./", "../", "/", "~")):
        config = (
            entry.hub[split][1:] if entry and split in entry.hub and entry.hub[split][0] == path else None
        )
        return Place(hub=(path, *config) if config else (path, None, _HUB_SPLITS.get(split, split)))
    near = _near(local)
    raise JobUserError(f"no such file: {path}", hint=f"did you mean {near}?" if near else None)


_HUB_SPLITS = {"valid": "validation"}
_OTHER_NAMES = {"valid": ("valid", "validation", "val", "dev")}


def _near(path: Path) -> str | None:
    if not path.parent.is_dir():
        return None
    names = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    return str(path.parent / names[0]) if names else None


def in_folder(folder: Path, entry: Files | None, split: str) -> tuple[Path, ...]:
    """The files of a split in a folder: by the entry's own names, else by the names that everybody uses."""
    own = entry.files.get(split, ()) if entry else ()
    for stems in (*own, *_OTHER_NAMES.get(split, (split,))):
        group = (stems,) if isinstance(stems, str) else stems
        found = [_one(folder, stem) for stem in group]
        if all(found):
            return tuple(f for f in found if f)
    for base in (folder, folder / "data"):
        for name in _OTHER_NAMES.get(split, (split,)):
            if shards := sorted(base.glob(f"{name}-*-of-*.parquet")):
                return tuple(shards)
    return ()


def _one(folder: Path, stem: str) -> Path | None:
    found = [p for s in SUFFIXES for end in (s, s + ".gz") if (p := folder / (stem + end)).is_file()]
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise JobUserError(f"{folder} holds {names}: which one?", hint="name the file itself: dataset.path")
    return found[0] if found else None
