"""Cluster profiles by name or path."""

from __future__ import annotations

from pathlib import Path

from latentctl import shipped
from latentctl.errors import Exit, UserError
from latentctl.spec import catalog, files
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.findings import user_error
from latentctl.spec.stages import strip_nulls
from latentctl.spec.unknown_keys import unknown_in
from latentctl.spec.validate import validate
from latentctl.spec.yaml_marks import Node


def profile_folders() -> list[Path]:
    """Where cluster profiles are looked for, nearest first."""
    return [Path("cluster"), Path("~/.config/latentctl/clusters").expanduser(), shipped.folder("cluster")]


def list_profiles() -> dict[str, Path]:
    """Name -> file of every profile; a nearer one hides a farther one of the same name."""
    found: dict[str, Path] = {}
    for folder in profile_folders():
        for path in sorted(folder.glob("*.yaml")) if folder.is_dir() else []:
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def load_profile(name: str | Path) -> ClusterProfile:
    """A cluster profile by name, or by path where the text has a slash or ends in .yaml.

    Raises UserError: unknown (exit code 3), or everything that is wrong with it.
    """
    path = _path(str(name))
    root = files.tree(files.read_bytes(path, "cluster profile"), str(path), "cluster profile")
    if root.get("name") is None:
        root = root.with_child("name", Node(path.stem, root.mark, root.mark, ("name",)))
    profile, found = validate(strip_nulls(root), ClusterProfile)
    found += unknown_in(root, ClusterProfile)
    if found or profile is None:
        raise user_error(found)
    return profile


def _path(text: str) -> Path:
    if "/" in text or text.endswith((".yaml", ".yml")):
        return Path(text).expanduser()
    known = list_profiles()
    if text not in known:
        near = catalog.nearest(text, known)
        hint = f"did you mean {near}?" if near else f"known: {catalog.listed(known) or 'none'}"
        message = f"there is no cluster profile {text!r}"
        raise UserError(message, hint=hint, code=Exit.NOT_FOUND, kind="not_found")
    return known[text]
