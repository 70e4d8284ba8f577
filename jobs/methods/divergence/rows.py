"""Searched answers become rows of a divergence model's data set, and rows become what it is trained on."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jobs.generate.text import decode
from jobs.grade.samples import Row
from jobs.methods.divergence.labels import label
from jobs.models.divergence import Triple
from jobs.runtime.errors import JobUserError


class Pair(NamedTuple):
    """A branch and its parent, with texts from the branching token on."""

    problem: str
    sample: int
    at: int
    """Characters that both share."""
    child: Row
    parent: Row
    label: float | None
    """None: not known yet."""

    @property
    def answers(self) -> tuple[str, str]:
        return self.child["extracted"], self.parent["extracted"]


def pairs(rows: Sequence[Row], grader: str) -> Iterator[Pair]:
    """Of one problem: every branch whose answer and whose parent's can be read. What was cut off has none."""
    by_index = {row["index"]: row for row in rows}
    for row in rows:
        branch = row.get("branch")
        if not branch or branch["duplicate"] or branch["parent"] is None:
            continue
        parent = by_index[branch["parent"]]
        if _answered(row) and _answered(parent):
            value = label(row["extracted"], parent["extracted"], grader)
            yield Pair(row["id"], row["index"], branch["at"], row, parent, value)


def windows(pair: Pair, tokenizer: Any, sizes: Sequence[int], before: int) -> Iterator[Row]:
    """A row for each size: so many tokens of both from where they part, in an order that a coin decides.

    Where both texts end before a larger size does, it would repeat a row. Continuations of one token say
    nothing.
    """
    text = pair.child["text"]
    ids = [_ids(tokenizer, t) for t in (text[: pair.at], text[pair.at :], pair.parent["text"][pair.at :])]
    head = decode(tokenizer, ids[0][-before:]) if len(ids[0]) > before else text[: pair.at]
    seen = set()
    for size in sizes:
        parts = ids[1][:size], ids[2][:size]
        if min(map(len, parts)) <= 1:
            continue
        one, other = (decode(tokenizer, part) for part in parts)
        if (one, other) in seen:
            continue
        seen.add((one, other))
        if _coin(pair, size):
            one, other = other, one
        yield {
            "problem": pair.problem,
            "index": pair.sample,
            "window": size,
            "before": head,
            "one": one,
            "other": other,
            "label": pair.label,
        }


def balanced(rows: Iterable[Row]) -> list[Row]:
    """Of each problem as many rows of each label as the rarer of "same" and "other" has, of "equal" at most
    so many. Which, its id decides."""
    problems: dict[str, dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        problems[row["problem"]][row["label"]].append(row)
    kept: list[Row] = []
    for problem, labels in problems.items():
        least = min(len(labels[0.0]), len(labels[1.0]))
        for value in sorted(labels):
            rng = random.Random(f"{problem} {value}")
            kept += rng.sample(labels[value], min(least, len(labels[value])))
    return kept


def read(path: Path, name: str, *, where: str) -> list[Row]:
    """The rows of a data set, each with its `source`. Raises JobUserError at the first that is none."""
    found = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                bad = not 0 <= float(row["label"]) <= 1 or any(
                    not isinstance(row[key], str) for key in ("problem", "before", "one", "other")
                )
            except (ValueError, KeyError, TypeError):
                bad, row = True, {}
            if bad:
                raise JobUserError(
                    f"{path}:{number}: this is no row of divergence data",
                    hint="expected problem, before, one, other, and a label from 0 to 1",
                    where=where,
                )
            found.append({**row, "source": name})
    if not found:
        raise JobUserError(
            f"{path} holds no row",
            hint="more problems, more samples, or balance: false: perhaps all answers of a problem agreed",
            where=where,
        )
    return found


def held_out(row: Row, share: float, seed: int) -> bool:
    """Whether a problem is kept for the evaluation: its id decides, whatever else there is."""
    digest = hashlib.blake2b(f"{seed} {row['problem']}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64 < share


def triple(row: Row) -> Triple:
    return Triple(row["before"], row["one"], row["other"])


def _answered(row: Row) -> bool:
    return row["cause"] not in ("length", "error") and row.get("extracted") is not None


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _coin(pair: Pair, size: int) -> bool:
    return random.Random(f"{pair.problem} {pair.sample} {size}").random() < 0.5
