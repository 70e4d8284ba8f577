"""The tree that a search made of one problem's answers: who branched off whom, at which token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]


class Limb(NamedTuple):
    """One answer of a search, in its place."""

    row: Row
    guides: tuple[bool, ...]
    """For each generation above it and for itself: whether younger ones of that generation follow below.
    Empty: the first answer."""
    prob: float
    """Of the token at which it left its parent, under the model at temperature 1."""
    token: str
    at: int
    """Characters of text that it shares with its parent."""
    doubles: int
    """Samples that repeat this answer, because the search found fewer than were asked for."""

    @property
    def root(self) -> bool:
        return not self.guides

    @property
    def own(self) -> str:
        """Its text from the branching token on; of a first answer all of it."""
        return str(self.row.get("text") or "")[self.at :]

    def dump(self) -> dict[str, Any]:
        """For `--json`; the texts are those of the samples."""
        row = self.row
        return {
            "index": row["index"],
            "depth": len(self.guides),
            "parent": row["branch"]["parent"],
            "at": self.at,
            "token": self.token,
            "prob": self.prob,
            "doubles": self.doubles,
            "verdict": row.get("verdict"),
            "extracted": row.get("extracted"),
        }


def limbs(rows: Sequence[Row]) -> tuple[Limb, ...]:
    """The answers of one problem from the first on, each followed by its own branches, the earliest leaving
    first. Empty where they were not searched. An answer whose parent is missing stands alone."""
    found = {row["index"]: row for row in rows if _searched(row) and not row["branch"]["duplicate"]}
    doubles = sum(_searched(row) for row in rows) - len(found)
    below: dict[int | None, list[Row]] = {}
    for index, row in found.items():
        parent = row["branch"]["parent"]
        known = parent in found and parent < index
        below.setdefault(parent if known else None, []).append(row)
    for twigs in below.values():
        twigs.sort(key=lambda row: (row["branch"]["at"], row["index"]))
    first = min(found, default=None)

    def limb(row: Row, guides: tuple[bool, ...]) -> Iterator[Limb]:
        branch, index = row["branch"], row["index"]
        at = branch["at"] if guides else 0
        yield Limb(row, guides, branch["prob"], branch["token"], at, doubles if index == first else 0)
        twigs = below.get(index, [])
        for twig in twigs:
            yield from limb(twig, (*guides, twig is not twigs[-1]))

    return tuple(one for row in below.get(None, []) for one in limb(row, ()))


def guide(guides: Sequence[bool]) -> str:
    """`│  └─ ` in front of an answer."""
    if not guides:
        return ""
    above = "".join("│  " if more else "   " for more in guides[:-1])
    return above + ("├─ " if guides[-1] else "└─ ")


def _searched(row: Row) -> bool:
    branch = row.get("branch")
    return isinstance(branch, dict) and {"parent", "at", "token", "prob", "duplicate"} <= branch.keys()
