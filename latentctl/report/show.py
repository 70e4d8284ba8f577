"""One run in full: what was asked, what ran, how it went, what came out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from latentctl.record.atomic import try_read_json
from latentctl.record.paths import JobPaths, RunPaths
from latentctl.report import plan as plan_text
from latentctl.report import progress, result
from latentctl.report.text import Column, clip, duration, number, paint, sparkline, table
from latentctl.runs.view import JobView, RunView

_SKIPPED = {"stage", "step", "time", "attempt", "epoch"}
_CURVES = 6


def metric_rows(job: JobPaths) -> list[dict[str, Any]]:
    """metrics.jsonl, whole lines only: the last one may be half-written."""
    try:
        lines = job.metrics.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def curves(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[float]]:
    """(stage, metric) -> its values in order."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in _SKIPPED and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault((str(row.get("stage", "")), name), []).append(float(value))
    return found


def overview(view: RunView, *, colour: bool) -> str:
    """Head and paths."""
    run, lock = view.run, try_read_json(view.run.lock) or {}
    git = lock.get("git") or {}
    commit = (git.get("commit") or "")[:12] + (" with changes" if git.get("dirty") else "")
    used, asked = view.gpu_hours
    rows = [
        ("run", run.id),
        ("state", paint(view.state, view.state, colour=colour)),
        ("cluster", f"{view.plan.cluster.get('name')} ({view.plan.cluster.get('executor')})"),
        ("created", str(lock.get("created", "-"))),
        ("code", f"latentctl {lock.get('latentctl', '?')}" + (f", commit {commit}" if commit else "")),
        ("GPU-hours", f"{used:.2f} used, {asked:g} asked for at most"),
        ("path", str(run.root)),
    ]
    return "\n".join(f"{name:<10} {value}" for name, value in rows)


def said(run: RunPaths) -> str:
    """What the person said of each stage: the values that are no defaults. spec.json holds the rest."""
    spec = try_read_json(run.spec) or {}
    provenance: Mapping[str, str] = spec.get("provenance") or {}
    lines: list[str] = []
    for i, stage in enumerate((spec.get("experiment") or {}).get("stages", [])):
        prefixes = (f"stages.{stage['name']}.", f"stages.{i}.")
        lines.append(f"stage {stage['name']} ({stage['method']}) from {stage.get('from') or 'the start'}")
        blocks: dict[str, list[str]] = {}
        for key, source in provenance.items():
            prefix = next((p for p in prefixes if key.startswith(p)), None)
            if prefix is None or source == "default":
                continue
            block, _, rest = key.removeprefix(prefix).partition(".")
            if block not in ("name", "method", "from"):
                text = f"{rest}={_leaf(stage, block, rest)}" if rest else str(stage.get(block))
                blocks.setdefault(block, []).append(text + ("*" if source.startswith("--") else ""))
        lines += [clip(f"  {block:<10} {' '.join(texts)}", 80) for block, texts in blocks.items()]
    if any(source.startswith("--") for source in provenance.values()):
        lines.append("* given on the command line")
    return "\n".join(lines)


def _leaf(stage: Mapping[str, Any], block: str, rest: str) -> str:
    """The value of a dotted key. A key may hold dots itself, so the longest match goes first."""
    value: Any = stage.get(block)
    while rest and isinstance(value, Mapping):
        name = max((k for k in value if rest == k or rest.startswith(f"{k}.")), key=len, default=None)
        if name is None:
            return "?"
        value, rest = value[name], rest[len(name) + 1 :]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def jobs(view: RunView, *, colour: bool) -> str:
    """Each job: resources, state, attempts with their causes."""
    parts = []
    for job in view.jobs:
        after = f", after {', '.join(job.plan.after)}" if job.plan.after else ""
        lines = [
            f"job {job.name}{after}: {paint(progress.line(job), job.state, colour=colour)}",
            f"  {plan_text.resources(job.plan)}",
        ]
        if job.attempts:
            text = attempts(job)
            lines += [f"  {line}" for line in text.splitlines()]
        if job.failure:
            lines += [clip(f"  | {line}", 120) for line in job.failure.evidence[-8:]]
            lines += [f"  hint: {job.failure.hint}"] if job.failure.hint else []
        parts.append("\n".join(lines))
    return "\n".join(parts)


def attempts(job: JobView) -> str:
    """The ledger: one row per start, with the cause of its end."""
    head = [
        Column("ATTEMPT", right=True),
        Column("STARTED"),
        Column("TOOK", right=True),
        Column("HOST", elastic=True),
        Column("ID", elastic=True),
        Column("END"),
        Column("CAUSE", elastic=True),
    ]
    rows = []
    for at in job.attempts:
        newest = at.number == job.attempt
        end = at.exit or ("running" if newest and job.state == "running" else "without a word")
        cause = ": ".join(t for t in (at.kind, at.message) if t)
        rows.append(
            [
                str(at.number),
                (at.started or "-")[:19].replace("T", " "),
                duration(at.seconds) if at.ended or end == "running" else "-",
                at.host or "-",
                str(at.id or "-"),
                end,
                cause,
            ]
        )
    return table(head, rows, width=78)


def metrics(view: RunView) -> str:
    """Curves of each stage's metrics, the telling ones first."""
    lines: list[str] = []
    for job in view.jobs:
        found = curves(metric_rows(view.run.job(job.name)))
        by_stage: dict[str, list[tuple[str, list[float]]]] = {}
        for (stage, name), values in found.items():
            by_stage.setdefault(stage, []).append((name, values))
        for stage, many in by_stage.items():
            curves_of = [nv for nv in many if len(nv[1]) > 1]  # a single value is no curve: see the result
            for name, values in sorted(curves_of, key=lambda nv: _weight(nv[0]))[:_CURVES]:
                ends = f"{number(values[0])} → {number(values[-1])}"
                lines.append(f"{clip(stage, 14):<14} {clip(name, 16):<16} {sparkline(values, 30)}  {ends}")
    return "\n".join(lines)


def _weight(name: str) -> tuple[int, str]:
    order = ("loss", "val_loss", "accuracy", "val_accuracy", "reward", "lr", "grad_norm")
    return (order.index(name) if name in order else len(order), name)


def run_text(view: RunView, *, colour: bool = False) -> str:
    """The whole page."""
    results = result.stage_results(view.run, view.plan)
    sections: Sequence[tuple[str, str]] = [
        ("", overview(view, colour=colour)),
        ("spec", said(view.run)),
        ("jobs", jobs(view, colour=colour)),
        ("metrics", metrics(view)),
        ("result", result.run_table(results, colour=colour) if results else ""),
    ]
    return "\n\n".join(f"{title}:\n{text}" if title else text for title, text in sections if text)


def run_dump(view: RunView) -> dict[str, Any]:
    """The same for `--json`, with the whole spec."""
    run = view.run
    rows = {j.name: metric_rows(run.job(j.name)) for j in view.jobs}
    return {
        **view.dump(),
        "spec": (try_read_json(run.spec) or {}).get("experiment"),
        "provenance": (try_read_json(run.spec) or {}).get("provenance"),
        "lock": {k: v for k, v in (try_read_json(run.lock) or {}).items() if k != "packages"},
        "attempts": {j.name: [a.dump() for a in j.attempts] for j in view.jobs},
        "metrics": rows,
        "results": {r.stage: r.numbers for r in result.stage_results(run, view.plan)},
        "gpu_hours": view.gpu_hours._asdict(),
        "paths": {
            "run": str(run.root),
            "spec": str(run.spec),
            "code": str(run.code),
            "jobs": {j.name: str(run.job(j.name).root) for j in view.jobs},
        },
    }


def outcome_dump(view: RunView) -> dict[str, Any]:
    """A run with its stages' results, for `--json`."""
    return {**view.dump(), "results": {r.stage: r.numbers for r in result.stage_results(view.run, view.plan)}}
