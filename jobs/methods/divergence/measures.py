"""How well scores tell branches that come to the same answer from those that do not. numpy alone.

A score is the probability of the same answer. Rows with a label of one half (one value, two forms) count in
the calibration alone: of them nobody can say on which side they belong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 10
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
_DRAWS = 500


def auroc(scores: np.ndarray, same: np.ndarray) -> float:
    """Probability that a pair with the same answer scores higher than one with another; a tie counts half
    (Mann and Whitney 1947). NaN where there are not both."""
    positives, negatives = int(same.sum()), int((~same).sum())
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (counts.cumsum() - (counts - 1) / 2)[place]
    return float((rank[same].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: np.ndarray, same: np.ndarray) -> float:
    """Of finding pairs that come to *another* answer, lowest scores first: the sum of precision times the
    rise of recall, ties taken together. NaN where there is none."""
    other = ~same
    if not other.any():
        return float("nan")
    values = np.unique(scores)
    hits = np.array([other[scores <= v].sum() for v in values], dtype=float)
    taken = np.array([(scores <= v).sum() for v in values], dtype=float)
    rise = np.diff(hits, prepend=0.0) / other.sum()
    return float((hits / taken * rise).sum())


def calibration(scores: np.ndarray, labels: np.ndarray) -> tuple[float, list[dict[str, float]]]:
    """Expected calibration error over ten bins of equal width (Naeini et al. 2015), and the bins: mean score,
    mean label, rows."""
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = []
    for b in range(BINS):
        here = place == b
        if here.any():
            count = int(here.sum())
            bins.append(
                {"score": float(scores[here].mean()), "label": float(labels[here].mean()), "rows": count}
            )
    error = sum(b["rows"] * abs(b["score"] - b["label"]) for b in bins) / len(scores)
    return float(error), bins


def at_threshold(scores: np.ndarray, same: np.ndarray, threshold: float) -> dict[str, float]:
    """What a search does that branches where the score is below `threshold`: the share of candidates that
    become rows, how many of these come to another answer, and how many of those with another are found."""
    taken, other = scores < threshold, ~same
    right = int((taken & other).sum())
    return {
        "threshold": threshold,
        "branches": float(taken.mean()),
        "precision": right / int(taken.sum()) if taken.any() else float("nan"),
        "recall": right / int(other.sum()) if other.any() else float("nan"),
    }


def evaluation(
    scores: Sequence[float], labels: Sequence[float], problems: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """All of it, with 95 % intervals of AUROC and average precision by the bootstrap over problems: rows of
    one problem are alike. What cannot be said is None."""
    s, y = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    names, which = np.unique(np.asarray(problems), return_inverse=True)
    sure = y != 0.5
    ece, bins = calibration(s, y)
    told = {
        "rows": len(s),
        "problems": len(names),
        "same": int((y == 1).sum()),
        "equal": int((~sure).sum()),
        "other": int((y == 0).sum()),
        "auroc": auroc(s[sure], y[sure] > 0.5),
        "average_precision": average_precision(s[sure], y[sure] > 0.5),
        "chance_precision": float((y[sure] < 0.5).mean()) if sure.any() else float("nan"),
        "near": float((np.abs(s - y) < 0.25).mean()),
        "mae": float(np.abs(s - y).mean()),
        "brier": float(((s - y) ** 2).mean()),
        "ece": ece,
        "calibration": bins,
        "thresholds": [at_threshold(s[sure], y[sure] > 0.5, t) for t in THRESHOLDS] if sure.any() else [],
    }
    told |= _intervals(s[sure], y[sure] > 0.5, which[sure], len(names), seed)
    return _plain(told)


def _intervals(
    scores: np.ndarray, same: np.ndarray, which: np.ndarray, problems: int, seed: int
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    rows_of = [np.flatnonzero(which == p) for p in range(problems)]
    found: dict[str, list[float]] = {"auroc": [], "average_precision": []}
    for _ in range(_DRAWS):
        rows = np.concatenate([rows_of[p] for p in rng.integers(problems, size=problems)])
        found["auroc"].append(auroc(scores[rows], same[rows]))
        found["average_precision"].append(average_precision(scores[rows], same[rows]))
    return {f"{name}_ci": _interval(values) for name, values in found.items()}


def _interval(values: list[float]) -> list[float] | None:
    whole = [v for v in values if not np.isnan(v)]
    return [float(x) for x in np.quantile(whole, [0.025, 0.975])] if whole else None


def _plain(value: Any) -> Any:
    """NaN as None: JSON has none."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def table(told: dict[str, Any]) -> str:
    """For people, within 80 columns."""

    def number(key: str) -> str:
        ci = told.get(f"{key}_ci")
        value = told[key]
        if value is None:
            return "unknown: the rows have one label alone"
        return f"{value:.3f}" + (f"  (95 % {ci[0]:.3f} to {ci[1]:.3f})" if ci else "")

    counts = f"same {told['same']}, equal {told['equal']}, other {told['other']}"
    lines = [  # precision is that of finding another answer
        f"{told['rows']} rows of {told['problems']} problems: {counts}",
        f"AUROC              {number('auroc')}",
        f"average precision  {number('average_precision')}  by chance {told['chance_precision'] or 0:.3f}",
        f"calibration error  {told['ece']:.3f}   Brier {told['brier']:.3f}   near {told['near']:.3f}",
        "",
        "threshold  branches  precision  recall",
    ]
    for row in told["thresholds"][1::2]:
        precision, recall = (f"{row[k]:.3f}" if row[k] is not None else "-" for k in ("precision", "recall"))
        lines.append(f"{row['threshold']:9.2f}  {row['branches']:8.3f}  {precision:>9}  {recall:>6}")
    return "\n".join(lines)
