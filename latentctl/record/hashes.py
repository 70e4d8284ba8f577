"""Hashes that both planes must compute alike."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def spec_hash(experiment: dict[str, Any]) -> str:
    """SHA-256 (hex) of `Experiment.dump()`: what spec.json records and what a worker checks before it starts."""
    return hashlib.sha256(canonical(experiment)).hexdigest()
