"""What a job does otherwise than its recipe says, because it failed as written: `adjust.json` of the job."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from latentctl.record.atomic import try_read_json, write_json
from latentctl.record.paths import JobPaths


def micro_batches(job: JobPaths) -> dict[str, int]:
    """Stage -> rows of a micro-batch, where not those of the recipe."""
    return dict((try_read_json(job.adjustments) or {}).get("micro_batch", {}))


def halve_micro_batches(job: JobPaths, stages: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Of those stages (as in spec.json) that train and have no result yet: the largest divisor of the
    micro-batch that is at most half of it, so that the global batch stays what it is. Empty, and nothing is
    written, where none can be smaller."""
    held = micro_batches(job)
    smaller = {}
    for stage in stages:
        name, train = stage["name"], stage.get("train") or {}
        now = held.get(name, train.get("micro_batch"))
        if isinstance(now, int) and now > 1 and not job.stage(name).result.exists():
            smaller[name] = next(n for n in range(now // 2, 0, -1) if now % n == 0)
    if smaller:
        write_json(job.adjustments, {"micro_batch": {**held, **smaller}})
    return smaller
