"""Runs a generator: the stream of distinct problems of one split."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from jobs.data.example import Example
from jobs.data.registry import Generator, NothingFits
from jobs.runtime.errors import JobUserError

SPLITS = {"train": range(0, 80), "valid": range(80, 90), "test": range(90, 100)}
"""Per cent of all problems that can be drawn; which, the hash of the problem says."""
PATIENCE = 20000
"""So many draws in a row without a new problem of the split mean that there are no more."""


def bucket(key: str) -> int:
    """0..99, from the problem alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) % 100


def stream(entry: Generator, split: str, options: object, seed: int) -> Iterator[Example]:
    """Distinct problems, the same on every machine. Raises JobUserError when there are no more."""
    mine = SPLITS[split]
    rng = random.Random(f"{entry.name}/{split}/{seed}")
    seen: set[int] = set()
    for number in count():
        found = _next(entry, rng, options, seen, mine)
        if found is None:
            raise JobUserError(
                f"{entry.name} found only {number} different problems for {split!r} with these options",
                hint="ask for fewer (limit), or for larger problems (options)",
            )
        yield replace(found, id=f"{entry.name}-{split}-{seed}-{number}")


def _next(
    entry: Generator, rng: random.Random, options: object, seen: set[int], mine: range
) -> Example | None:
    for _ in range(PATIENCE):
        try:
            key, example = entry.draw(rng, options)
        except NothingFits:
            return None
        digest = hash_of(key)
        if digest not in seen and bucket(key) in mine:
            seen.add(digest)
            return example
    return None


def hash_of(key: str) -> int:
    """64 bits that stand for a problem, to remember many of them cheaply."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, person=b"seen").digest())
