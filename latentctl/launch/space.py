"""Room on a file system: what is free, and what a quota leaves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_CALL_S = 10.0
_NUMBER = re.compile(r"^(\d+)\*?$")


@dataclass(frozen=True)
class Room:
    """What may still be written."""

    bytes: int
    why: str
    """Whose limit that is."""


def room(path: Path) -> Room:
    """Of the file system of `path`, or of its nearest folder that is there: the least that any limit leaves.

    Raises OSError where it cannot be looked at.
    """
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    found = os.statvfs(place)
    rooms = [Room(found.f_bavail * found.f_frsize, "free")]
    if found.f_files and not found.f_favail:
        rooms.append(Room(0, "no inodes left"))
    left = quota(place)
    if left is not None:
        rooms.append(Room(left, "left of the quota"))
    return min(rooms, key=lambda r: r.bytes)


def quota(path: Path) -> int | None:
    """Bytes that the user's quota leaves there; None where none is told."""
    kind, mount = _mount(path)
    if kind == "lustre" and shutil.which("lfs"):
        return _left(_said(["lfs", "quota", "-q", "-u", str(os.getuid()), str(path)]), mount)
    if shutil.which("quota"):
        return _left(_said(["quota", "-w", "-p", "--show-mntpoint", "--hide-device"]), mount)
    return None


def _left(text: str, mount: str) -> int | None:
    """Both programs write: file system, KiB used, soft limit, hard limit, ... A star marks what is over."""
    for line in text.splitlines():
        name, _, rest = line.strip().partition(" ")
        if name.rstrip("/") != mount.rstrip("/"):
            continue
        numbers = [int(m[1]) for word in rest.split()[:3] if (m := _NUMBER.match(word))]
        limits = [n for n in numbers[1:] if n > 0]
        if len(numbers) == 3 and limits:
            return max(0, min(limits) - numbers[0]) * 1024
    return None


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_CALL_S,
            stdin=subprocess.DEVNULL,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _mount(path: Path) -> tuple[str, str]:
    """(type, mount point) of the file system that holds `path`."""
    found = ("", "/")
    where = str(path.resolve())
    try:
        rows = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return found
    for row in rows:
        _, point, kind, *_ = row.split(" ")
        point = point.replace("\\040", " ")
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found[1]):
            found = (kind, point)
    return found
