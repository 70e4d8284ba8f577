"""From samples to verdicts to numbers: shared by the evaluation and by grading again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.grade import metrics
from jobs.grade.pool import Pool
from jobs.grade.protocol import Answered
from jobs.grade.samples import Row


def judge(rows: Sequence[Row], grader: str, *, timeout: float, plugins: Sequence[str] = ()) -> list[Row]:
    """The rows with verdict, extracted and reason. A row that was not generated (cause "error") is wrong."""
    asked = [row for row in rows if row["cause"] != "error"]
    items = [Answered(r["text"], r["gold"], r.get("meta") or {}, tuple(r["markers"])) for r in asked]
    with Pool(grader, timeout=timeout, plugins=plugins) as pool:
        verdicts = dict(zip(map(id, asked), pool.grade(items), strict=True))
    out = []
    for row in rows:
        verdict = verdicts.get(id(row))
        if verdict is None:
            judged = {"verdict": "wrong", "extracted": None, "reason": f"not generated: {row.get('error')}"}
        else:
            judged = {"verdict": verdict.status, "extracted": verdict.extracted, "reason": verdict.reason}
        out.append({**row, **judged})
    return out


def summary(rows: Sequence[Row], latent: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Numbers of result.json that follow from the graded rows. Each problem counts once, whatever its
    samples.

    `accuracy` is the mean over problems of the share of correct samples, which is avg@k; `graded_errors`
    counts samples whose grader failed: they count as not correct, and are told apart here. `latent` is the
    evaluation's settled LatentSpec, as result.json holds it. `warnings`: what a low accuracy may come from.
    """
    problems: dict[str, list[Row]] = {}
    for row in rows:
        problems.setdefault(row["id"], []).append(row)
    right = {id: [r["verdict"] == "correct" for r in group] for id, group in problems.items()}
    shares = [sum(flags) / len(flags) for flags in right.values()]
    k = min(map(len, problems.values()), default=0)
    n = len(problems)
    accuracy = sum(shares) / n if n else 0.0
    return {
        "accuracy": accuracy,
        "accuracy_ci": list(metrics.accuracy_interval(shares, k)),
        "n": n,
        "k": k,
        "avg_at_k": accuracy,
        "pass_at_k": {
            str(j): sum(metrics.pass_at_k(len(f), sum(f), j) for f in right.values()) / n
            for j in (metrics.powers(k) if k else [])
        },
        "maj_at_k": _majority(problems) if k > 1 else None,
        "graded_errors": sum(r["verdict"] == "error" for r in rows),
        **_lengths(rows),
        **_latents(rows),
        "warnings": _warnings(rows, latent),
    }


def _majority(problems: dict[str, list[Row]]) -> float:
    votes = ([(r["extracted"], r["verdict"] == "correct") for r in group] for group in problems.values())
    return sum(map(metrics.majority, votes)) / len(problems)


def _lengths(rows: Sequence[Row]) -> dict[str, Any]:
    thinking = [r["think_tokens"] for r in rows if r.get("think_tokens") is not None]
    return {
        "tokens_mean": sum(r["tokens"] for r in rows) / max(1, len(rows)),
        "think_tokens_mean": sum(thinking) / len(thinking) if thinking else None,
        "stop_causes": dict(Counter(r["cause"] for r in rows)),
        "truncated": sum(r["cause"] == "length" for r in rows) / max(1, len(rows)),
        "forced_ends": sum(bool(r["forced"]) for r in rows),
    }


def _latents(rows: Sequence[Row]) -> dict[str, Any]:
    """Absent for text alone. Means are over samples; `positions` are visible tokens and latent steps."""
    thought = [row for row in rows if row.get("latents") is not None]
    if not thought:
        return {}
    return {
        "latents_mean": sum(r["latents"] for r in thought) / len(thought),
        "latent_causes": dict(Counter(r["latent_cause"] for r in thought if r["latent_cause"])),
        "positions_mean": sum(r["tokens"] + r["latents"] for r in thought) / len(thought),
    }


def _warnings(rows: Sequence[Row], latent: Mapping[str, Any] | None) -> list[str]:
    """An accuracy near 0 is more often a mismatch between checkpoint and recipe than a bad model."""
    found = []
    if rows and not any(row["extracted"] for row in rows):
        found.append(
            f"0 of {len(rows)} answers could be read: do the prompt's form, the markers and the latent "
            "settings fit this checkpoint?"
        )
    causes = Counter(row.get("latent_cause") for row in rows)
    capped = causes["max_len"] + causes["budget"]
    stop = (latent or {}).get("stop") or {}
    counted = not (stop.get("end_marker") or stop.get("entropy"))
    if capped and capped == len(rows) and (causes["budget"] or not counted):
        found.append(
            f"no latent span ended by itself: {causes['max_len']} reached max_len, {causes['budget']} "
            "max_new_tokens; do the markers and stop rules fit this checkpoint?"
        )
    return found
