"""The verb `grade`: judge what was generated, again or for the first time, without generating."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from jobs.grade import metrics, samples
from jobs.grade.judge import judge, summary
from jobs.grade.outputs import Malformed, Output, read
from jobs.grade.pool import Pool
from jobs.grade.registry import get
from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import try_read_json, write_json, write_text

_CHUNK = 2000
"""Rows of a file that are held at once."""


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """{"stage": {...}} grades a finished eval stage again, {"file": {...}} any file of outputs."""
    return _stage(payload["stage"]) if "stage" in payload else _file(payload["file"])


def _stage(asked: dict[str, Any]) -> dict[str, Any]:
    """{"root": stage folder, "job": job folder, "grader": name or None, "timeout", "plugins"}.

    Rewrites samples.jsonl and the numbers of result.json that follow from it; files stay untouched where no
    verdict changed. -> {"grader", "samples", "changed": [...], "before": numbers, "after": numbers}
    """
    root, job = Path(asked["root"]), Path(asked["job"])
    result = try_read_json(root / "result.json")
    if result is None:
        raise JobUserError("this evaluation has not finished: there is no result.json", where=str(root))
    name = asked.get("grader") or result["grader"]
    plugins = asked.get("plugins") or []
    get(name, plugins)
    rows = samples.read(root / "samples.jsonl")
    graded = judge(rows, name, timeout=float(asked["timeout"]), plugins=plugins)
    numbers = {**result, **summary(graded, result.get("latent")), "grader": name}
    if rows != graded or numbers != result:
        samples.write(root / "samples.jsonl", graded)
        write_json(root / "result.json", numbers)
        _update_job(job / "result.json", root.name, numbers)
    changed = [
        {
            "id": new["id"],
            "index": new["index"],
            "gold": new["gold"],
            "before": {k: old.get(k) for k in ("verdict", "extracted", "reason")},
            "after": {k: new[k] for k in ("verdict", "extracted", "reason")},
        }
        for old, new in zip(rows, graded, strict=True)
        if old.get("verdict") != new["verdict"]
    ]
    shown = ("accuracy", "accuracy_ci", "n", "k", "pass_at_k", "maj_at_k", "graded_errors")
    return {
        "grader": name,
        "grader_before": result.get("grader"),
        "samples": len(rows),
        "changed": changed,
        "before": {k: result.get(k) for k in shown},
        "after": {k: numbers[k] for k in shown},
    }


def _update_job(path: Path, stage: str, numbers: dict[str, Any]) -> None:
    whole = try_read_json(path)
    if whole is not None:
        whole["stages"][stage] = numbers
        write_json(path, whole)


def _file(asked: dict[str, Any]) -> dict[str, Any]:
    """{"path", "grader", "gold", "prediction", "out", "timeout", "plugins"}: one row of verdict per
    prediction to `out`, in the order of the file. -> counts, accuracy over predictions that could be
    read, malformed lines."""
    path = Path(asked["path"])
    counts = Counter[str]()
    malformed: list[dict[str, Any]] = []
    lines: list[str] = []
    found = read(path, gold=asked["gold"], prediction=asked["prediction"])
    with Pool(asked["grader"], timeout=float(asked["timeout"]), plugins=asked.get("plugins") or []) as pool:
        while chunk := list(islice(found, _CHUNK)):
            for row in _verdicts(chunk, pool):
                if row["verdict"] == "malformed":
                    malformed.append({"where": f"{path}:{row['line']}", "reason": row["reason"]})
                else:
                    counts[row["verdict"]] += 1
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(Path(asked["out"]), "".join(lines))
    graded = sum(counts.values())
    return {
        "rows": graded + len(malformed),
        "correct": counts["correct"],
        "wrong": counts["wrong"],
        "ungraded": counts["error"],
        "malformed": malformed,
        "accuracy": counts["correct"] / graded if graded else None,
        "accuracy_ci": list(metrics.wilson(counts["correct"], graded)) if graded else None,
    }


def _verdicts(chunk: list[Output | Malformed], pool: Pool) -> Iterator[dict[str, Any]]:
    verdicts = pool.grade([o.item for o in chunk if isinstance(o, Output)])
    for output in chunk:
        if isinstance(output, Malformed):
            yield {"line": output.line, "verdict": "malformed", "extracted": None, "reason": output.reason}
            continue
        verdict = next(verdicts)
        named = {} if output.id is None else {"id": output.id}
        yield {
            "line": output.line,
            **named,
            "index": output.index,
            "gold": output.item.gold,
            "verdict": verdict.status,
            "extracted": verdict.extracted,
            "reason": verdict.reason,
        }
