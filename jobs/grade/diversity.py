"""How different the answers to one problem are, and what a tree search found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from jobs.grade.extract import plain_signs
from jobs.grade.samples import Row

_LONG = 2000
"""Words of a text that are looked at: a comparison is quadratic in them."""


def bleu(text: Sequence[str], other: Sequence[str], weights: Sequence[float] = (0, 0, 0.5, 0.5)) -> float:
    """BLEU of words against one reference (Papineni et al. 2002): the geometric mean of clipped n-gram
    precisions, here of 3 and 4 words alike, times the brevity penalty. 0 where an n-gram precision is 0."""
    total = 0.0
    for n, weight in enumerate(weights, 1):
        if not weight:
            continue
        mine, theirs = _grams(text, n), _grams(other, n)
        count = sum(mine.values())
        same = sum((mine & theirs).values())
        if not count or not same:
            return 0.0
        total += weight * math.log(same / count)
    penalty = 0.0 if len(text) >= len(other) else 1 - len(other) / len(text)
    return math.exp(total + penalty)


def rouge_l(text: Sequence[str], other: Sequence[str]) -> float:
    """ROUGE-L F1 of words (Lin 2004): from the longest common subsequence."""
    if not text or not other:
        return 0.0
    before = [0] * (len(other) + 1)
    for word in text:
        now = [0]
        for j, there in enumerate(other):
            now.append(before[j] + 1 if word == there else max(before[j + 1], now[-1]))
        before = now
    precision, recall = before[-1] / len(text), before[-1] / len(other)
    return 2 * precision * recall / (precision + recall) if before[-1] else 0.0


def simplified(answer: str | None) -> str:
    """An answer without what does not tell it from others: case, space, signs of other scripts."""
    return "".join(plain_signs(answer or "").split()).casefold()


def report(rows: Iterable[Row]) -> dict[str, float | None]:
    """Means over problems, doubles of a search aside: `bleu` and `rouge_l` over pairs of answers (1: all the
    same; None where no problem has two), `answers` different ones, `sequences` different rows."""
    groups = [group for group in _problems(rows) if group]
    pairs = [_pairs(group) for group in groups]
    several = [p for p in pairs if p is not None]
    n = max(1, len(groups))
    return {
        "bleu": sum(b for b, _ in several) / len(several) if several else None,
        "rouge_l": sum(r for _, r in several) / len(several) if several else None,
        "answers": sum(len({simplified(r["extracted"]) for r in group}) for group in groups) / n,
        "sequences": sum(len({r["text"] for r in group}) for group in groups) / n,
    }


def searched(rows: Iterable[Row]) -> dict[str, float]:
    """Of a tree search, means over problems: `rows` that were found, `doubles` that fill up, `depth`: how
    often the longest line of descent branched."""
    problems: dict[str, list[Row]] = {}
    for row in rows:
        problems.setdefault(row["id"], []).append(row)
    found = [_tree(group) for group in problems.values()]
    n = max(1, len(found))
    return {name: sum(each[name] for each in found) / n for name in ("rows", "doubles", "depth")}


def _tree(group: Sequence[Row]) -> dict[str, Any]:
    by_index = {row["index"]: row["branch"] for row in group if row.get("branch")}
    real = {i: b for i, b in by_index.items() if not b["duplicate"]}

    def depth(i: int) -> int:
        parent = real[i]["parent"]
        return 0 if parent is None else 1 + depth(parent)

    return {
        "rows": len(real),
        "doubles": len(by_index) - len(real),
        "depth": max((depth(i) for i in real), default=0),
    }


def _problems(rows: Iterable[Row]) -> list[list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        kept = found.setdefault(row["id"], [])
        if not (row.get("branch") or {}).get("duplicate"):
            kept.append(row)
    return list(found.values())


def _pairs(group: Sequence[Row]) -> tuple[float, float] | None:
    """Mean BLEU and ROUGE-L over pairs; None where there is none."""
    texts = [row["text"].split()[:_LONG] for row in group]
    pairs = list(combinations(texts, 2))
    if not pairs:
        return None
    both = [(bleu(a, b), rouge_l(a, b)) for a, b in pairs]
    return sum(b for b, _ in both) / len(both), sum(r for _, r in both) / len(both)


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
