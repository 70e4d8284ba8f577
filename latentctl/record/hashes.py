"""Hashes that both planes must compute alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def spec_hash(experiment: dict[str, Any]) -> str:
    """SHA-256 (hex) of `Experiment.dump()`: what spec.json records and what a worker checks before it
    starts."""
    return hashlib.sha256(canonical(experiment)).hexdigest()


def code_files(folder: Path) -> list[tuple[PurePosixPath, Path]]:
    """Of a snapshot: where each file stands below it, and the file; in order, without byte code."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    return [(PurePosixPath(p.relative_to(folder).as_posix()), p) for p in paths]


def code_bytes(code: Iterable[tuple[PurePosixPath, str]]) -> bytes:
    """What of the code goes into `content_hash`: (path below `code/`, SHA-256 of its bytes) per file."""
    return "".join(f"\0{path}\0{digest}" for path, digest in sorted(code)).encode()


def content_hash(experiment: dict[str, Any], code: bytes) -> str:
    """SHA-256 (hex) of an experiment and of its code (`code_bytes`)."""
    return hashlib.sha256(canonical(experiment) + code).hexdigest()
