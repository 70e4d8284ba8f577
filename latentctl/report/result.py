"""The numbers that count, from result.json files: one run's, or means and intervals over seeds and sweep
points."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentctl.record.atomic import try_read_json
from latentctl.record.paths import RunPaths
from latentctl.record.plan import Plan
from latentctl.report.text import Column, clip, duration, number, percent, table

_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % quantile of Student's t with 1..30 degrees of freedom; 1.96 beyond."""


@dataclass(frozen=True)
class StageResult:
    """What one stage of one run came to."""

    run: str
    stage: str
    numbers: dict[str, Any]

    @property
    def scores(self) -> bool:
        """An evaluation: it has an accuracy."""
        return "accuracy" in self.numbers


def stage_results(run: RunPaths, plan: Plan | None = None) -> list[StageResult]:
    """The results of the finished stages, in plan order; those of a job that still runs too."""
    plan = plan or Plan.load(run.plan)
    found: list[StageResult] = []
    for job in plan.jobs:
        for stage in job.stages:
            numbers = try_read_json(run.job(job.name).stage(stage).result)
            if numbers is not None:
                found.append(StageResult(run.id, stage, numbers))
    return found


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % interval (Student's t over runs); None for a single value."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, None
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    t = _T95[n - 2] if n - 1 <= len(_T95) else 1.96
    return mean, t * deviation / math.sqrt(n)


def run_table(results: Sequence[StageResult], *, colour: bool = False) -> str:
    """The result of one run: a table of its evaluations, one of its trainings."""
    parts = []
    evaluations = [r for r in results if r.scores]
    if evaluations:
        parts.append(_evaluations(evaluations, colour=colour))
        parts += [line for r in evaluations for line in _details(r)]
    others = [r for r in results if not r.scores]
    if others:
        parts.append(("\n" if parts else "") + _trainings(others))
    return "\n".join(parts)


def _evaluations(results: Sequence[StageResult], *, colour: bool) -> str:
    head = [
        Column("EVAL", elastic=True),
        Column("DATASET", elastic=True, least=6),
        Column("ACCURACY", right=True),
        Column("95 % CI", right=True),
        Column("N", right=True),
        Column("TOKENS", right=True),
        Column("CUT", right=True),
        Column("TOK/S", right=True),
        Column("TIME", right=True),
    ]
    rows = [
        [
            r.stage,
            _dataset(n),
            f"{percent(n['accuracy'])} %",
            _interval(n.get("accuracy_ci")),
            number(n.get("n")),
            number(_rounded(n.get("tokens_mean"), 1)),
            f"{percent(_share(n.get('truncated'), _answers(n)))} %",
            number(_rounded(n.get("tokens_per_s"), 0)),
            duration(n.get("seconds")),
        ]
        for r in results
        for n in (r.numbers,)
    ]
    return table(head, rows, colour=colour)


def _details(result: StageResult) -> list[str]:
    """What does not fit the table: k > 1, how answers ended, ungraded ones, leakage."""
    n = result.numbers
    found: list[str] = []
    k = n.get("k") or 1
    if k > 1:
        passes = n.get("pass_at_k") or {}
        parts = [f"avg@{k} {percent(n.get('avg_at_k'))} %"]
        parts += [f"pass@{i} {percent(v)} %" for i, v in sorted(passes.items(), key=lambda kv: int(kv[0]))]
        parts += [f"maj@{k} {percent(n['maj_at_k'])} %"] if n.get("maj_at_k") is not None else []
        found.append("; ".join(parts))
    stops = n.get("stop_causes") or {}
    if stops:
        total = sum(stops.values()) or 1
        parts = [f"{name} {100 * count / total:.0f} %" for name, count in _largest(stops)]
        found.append("stopped by: " + ", ".join(parts))
    if n.get("graded_errors"):
        found.append(f"{n['graded_errors']} answers could not be graded")
    found += _leakage(n.get("leakage"))
    speed = n.get("problems_per_s")
    if speed:
        found.append(f"{number(1 / speed)} s per problem")
    return [clip(f"  {result.stage}: {text}", 80) for text in found]


def _leakage(report: Any) -> list[str]:
    """Questions that stand in the training data of an earlier stage, and sets that could not be checked."""
    found = []
    for part in (report or {}).get("sets", []):
        exact, near = part.get("exact") or 0, part.get("near") or 0
        if exact or near:
            found.append(
                f"leakage: {exact} questions also stand in the data of {part['stage']}, {near} nearly"
            )
        elif part.get("checked") is False:
            found.append(f"leakage: not checked against the data of {part['stage']}")
    return found


def _trainings(results: Sequence[StageResult]) -> str:
    head = [
        Column("STAGE", elastic=True),
        Column("METHOD"),
        Column("STEPS", right=True),
        Column("LOSS", right=True),
        Column("BEST", elastic=True, least=6),
        Column("TOKENS", right=True),
        Column("TIME", right=True),
    ]
    rows = [
        [
            r.stage,
            str(n.get("method", "")),
            number(n.get("steps")),
            number(_float(n.get("loss"))),
            _best(n.get("best")),
            number(n.get("tokens")),
            duration(n.get("train_seconds", n.get("seconds"))),
        ]
        for r in results
        for n in (r.numbers,)
    ]
    return table(head, rows)


def many_table(runs: Sequence[tuple[RunPaths, Mapping[str, Any]]], *, colour: bool = False) -> str:
    """Evaluations over the points of a sweep: one row for each combination of what varied except the seed,
    with mean and 95 % interval over its seeds, never narrower than its problems allow."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run, varies in runs:
        point = ", ".join(f"{_leaf(k)}={_value(v)}" for k, v in varies.items() if k != "seed") or "all"
        for result in stage_results(run):
            if result.scores:
                groups.setdefault((point, result.stage), []).append(result.numbers)
    head = [
        Column("POINT", elastic=True),
        Column("EVAL", elastic=True),
        Column("DATASET", elastic=True, least=6),
        Column("RUNS", right=True),
        Column("ACCURACY", right=True),
        Column("95 % CI", right=True),
        Column("TOKENS", right=True),
    ]
    rows = []
    for (point, stage), many in groups.items():
        mean, bounds = _over_seeds(many)
        tokens = [n["tokens_mean"] for n in many if n.get("tokens_mean") is not None]
        rows.append(
            [
                point,
                stage,
                _dataset(many[0]),
                str(len(many)),
                f"{percent(mean)} %",
                _interval(bounds),
                number(_rounded(sum(tokens) / len(tokens), 1)) if tokens else "-",
            ]
        )
    return table(head, rows, colour=colour) if rows else ""


def _over_seeds(many: Sequence[Mapping[str, Any]]) -> tuple[float, list[float] | None]:
    """Mean accuracy and its 95 % interval: over the seeds, and at least as wide as a run's own over its
    problems. More seeds see the same problems, and few seeds may agree by chance."""
    mean, half = mean_interval([n["accuracy"] for n in many])
    own = [n["accuracy_ci"] for n in many if n.get("accuracy_ci")]
    low = [sum(c[0] for c in own) / len(own)] if own else []
    high = [sum(c[1] for c in own) / len(own)] if own else []
    if half is not None:
        low.append(max(0.0, mean - half))
        high.append(min(1.0, mean + half))
    return mean, [min(low), max(high)] if low else None


def _interval(bounds: Any) -> str:
    return f"{percent(bounds[0])}-{percent(bounds[1])}" if bounds else "-"


def _answers(n: Mapping[str, Any]) -> int:
    return int(n.get("n") or 0) * int(n.get("k") or 1)


def _share(count: Any, of: int) -> float | None:
    """A count as a share; a share (a float up to 1) as it is."""
    if count is None:
        return None
    if isinstance(count, float) and 0 <= count <= 1:
        return count
    return count / of if of else None


def _rounded(value: Any, digits: int) -> Any:
    return round(float(value), digits) if isinstance(value, int | float) else value


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, int | float) else value


def _best(best: Any) -> str:
    """`loss 0.21 @ 400`."""
    if not isinstance(best, Mapping):
        return "-" if best is None else number(_float(best))
    metric = best.get("metric")
    value = best.get("value", best.get(metric) if metric else None)
    step = best.get("step")
    return f"{metric or ''} {number(_float(value))}{f' @ {step}' if step is not None else ''}".strip()


def _dataset(n: Mapping[str, Any]) -> str:
    dataset = n.get("dataset")
    if isinstance(dataset, Mapping):
        return str(dataset.get("name") or dataset.get("path") or "-")
    return str(dataset) if dataset else "-"


def _largest(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    return sorted(((k, v) for k, v in counts.items() if v), key=lambda kv: -kv[1])


def _leaf(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
