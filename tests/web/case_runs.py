"""Run folders with evaluations, samples and traces, as the jobs write them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentctl.record.atomic import write_json
from latentctl.record.paths import RunPaths, StagePaths
from latentctl.record.plan import JobPlan, Plan

Row = dict[str, Any]


def distribution(tokens: Sequence[str], sharpness: float) -> tuple[float, list[list[Any]]]:
    """(entropy in nats, [[token, probability], ...]): a geometric fall over these tokens."""
    raw = [math.exp(-sharpness * i) for i in range(len(tokens))]
    total = sum(raw)
    p = [r / total for r in raw]
    return -sum(q * math.log(q) for q in p), [[t, round(q, 4)] for t, q in zip(tokens, p, strict=True)]


def step(tokens: Sequence[str], sharpness: float, **more: Any) -> Row:
    entropy, pairs = distribution(tokens, sharpness)
    return {"entropy": round(entropy, 4), "mass": 1.0, "noised": False, "tokens": pairs, **more}


def trace(id: str, steps: list[Row], **more: Any) -> Row:
    return {
        "id": id, "index": 0, "latents": len(steps), "cause": "fixed", "spans": [[0, len(steps)]],
        "input": "hidden", "steps": steps, **more,
    }  # fmt: skip


def sample(id: str, **more: Any) -> Row:
    return {
        "id": id, "index": 0, "question": f"Question {id}?", "prompt": f"Question {id}?\n",
        "prompt_tokens": 5, "gold": "3", "meta": {}, "markers": ["", ""], "text": "cup 3", "tokens": 2,
        "think_tokens": None, "cause": "eos", "forced": 0, "logp_sum": -0.5, "verdict": "correct",
        "extracted": "3", "reason": "equal to the gold", **more,
    }  # fmt: skip


def wrong(id: str, **more: Any) -> Row:
    judged = {"verdict": "wrong", "extracted": "1", "reason": "1 is not 3", "text": "cup 1"}
    return sample(id, **{**judged, **more})


def latent(n: int, cause: str = "fixed", **more: Any) -> Row:
    """The part of a sample that says how it thought."""
    return {"latents": n, "latent_cause": cause, "spans": [[0, n]], **more}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


def make_run(root: Path, stages: dict[str, str], *, settings: dict[str, Any] | None = None) -> RunPaths:
    """`stages`: name -> method, in one job. `settings`: the eval block of every evaluation."""
    run = RunPaths(root)
    job = JobPlan("all", list(stages), [], "train", 1, 1, 0, None, None, 60, "python")
    root.mkdir(parents=True)
    block = {"trace": "full", "trace_problems": 100, "grade_timeout": 10.0, **(settings or {})}
    described = [
        {"name": n, "method": m, **({"eval": block} if m == "eval" else {})} for n, m in stages.items()
    ]
    write_json(run.spec, {"experiment": {"stages": described}})
    Plan(root.name, "0" * 64, {"name": "local"}, [job]).save(run.plan)
    return run


def stage(run: RunPaths, name: str = "score") -> StagePaths:
    return run.job("all").stage(name)


def fill(run: RunPaths, rows: Sequence[Row], traces: Sequence[Row] = (), name: str = "score") -> None:
    """Samples, traces and a result of one evaluation."""
    paths = stage(run, name)
    write_rows(paths.samples, rows)
    if traces:
        write_rows(paths.traces, traces)
    kind = next((t["input"] for t in traces), None)
    write_json(
        paths.result,
        {
            "accuracy": sum(r.get("verdict") == "correct" for r in rows) / len(rows),
            "dataset": "shell-game", "split": "test", "grader": "exact",
            "latent": {"input": {"kind": kind}} if kind else None,
        },
    )  # fmt: skip


def shell_game(root: Path, name: str = "coconut", *, sharper: float = 0.0) -> RunPaths:
    """A small honest-looking evaluation: three problems, six latent steps each, the second one wrong."""
    run = make_run(root / name, {"train": "sft", "score": "eval"})
    question = (
        "There are 5 cups in a row and a ball under cup 2. Swap cups 2 and 4. Swap cups 1 and 3. "
        "Swap cups 4 and 3. Swap cups 5 and 1. Swap cups 3 and 2. Swap cups 1 and 4. Where is the ball?"
    )
    words = [
        [" 4", " 2", " cup", " 3", "\n"], [" 4", " 1", " swap", " 3", "."], [" 3", " 4", " 2", " cup", ","],
        [" 3", " 5", " 1", " 4", " the"], [" 2", " 3", " cup", " ball", " 1"], [" 2", " 4", " 1", "###", "A"],
    ]  # fmt: skip
    rows, traces = [], []
    for n in range(3):
        id = f"shell-game-test-0-{n}"
        steps = [step(w, 0.35 + sharper + 0.55 * ((k + n) % 4)) for k, w in enumerate(words)]
        made = wrong if n == 1 else sample
        rows.append(made(id, question=question, gold="2", **latent(6)))
        rows[-1] |= {
            "text": "The ball is under cup 1." if n == 1 else "The ball is under cup 2.",
            "tokens": 8,
        }
        rows[-1] |= {
            "extracted": "1" if n == 1 else "2",
            "reason": "1 is not 2" if n == 1 else "equal to the gold",
        }
        traces.append(trace(id, steps))
    fill(run, rows, traces)
    return run


def searched(root: Path, name: str = "tree") -> RunPaths:
    """One problem whose answers were searched: 0 branched twice, its first branch once more; 4 and 5 repeat
    0 because nothing else was found."""
    text = "First 3 plus 4 is 7. So 7 times 2 is 14."
    other = "First 3 times 4 is 12. So 12 plus 2 is 14."
    ends = "Then 7 plus 2 is 9.", "Then 12 times 2 is 24."
    texts = {0: text, 1: other, 2: text[:21] + ends[0], 3: other[:23] + ends[1]}
    leaves = {0: (None, 0, "First", 1.0), 1: (0, 7, " times", 0.31), 2: (0, 21, "Then", 0.2),
              3: (1, 23, "Then", 0.125)}  # fmt: skip
    rows = []
    for index in range(6):
        which = index if index in leaves else 0
        parent, at, token, prob = leaves[which]
        made = wrong if which in (2, 3) else sample
        branch = {"parent": parent, "birth": at // 4, "prob": prob, "token": token, "at": at}
        row = made("p", index=index, text=texts[which], gold="14")
        rows.append({**row, "branch": {**branch, "duplicate": index not in leaves}})
    run = make_run(root / name, {"score": "eval"})
    fill(run, rows)
    return run
