"""Run directories with finished evaluations, written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentctl.record.atomic import write_json, write_text
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan

SAMPLING = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "samples": 1, "max_new_tokens": 64,
            "max_think_tokens": None, "stop": [], "seed": 0}  # fmt: skip
LATENT = {"input": {"kind": "hidden"}, "markers": {"start": "<|start-latent|>", "end": "<|end-latent|>"},
          "start": "prompt", "stop": {"fixed": 8}}  # fmt: skip


def sample_rows(
    shares: Sequence[Sequence[bool]],
    *,
    first: int = 0,
    prompt: str = "Q{i}\n",
    gold: str = "{i}",
    dataset: str = "game",
) -> list[dict[str, Any]]:
    """One row per sample: `shares[p][s]` says whether sample s of problem p is correct."""
    return [
        {
            "id": f"{dataset}-{i}", "index": s, "question": f"Q{i}", "gold": gold.format(i=i),
            "prompt": prompt.format(i=i), "verdict": "correct" if right else "wrong",
        }
        for i, group in enumerate(shares, first)
        for s, right in enumerate(group)
    ]  # fmt: skip


def right(*flags: int) -> list[list[bool]]:
    """One sample per problem."""
    return [[bool(flag)] for flag in flags]


def score(rows: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """A result.json over these rows, in the form of an evaluation of text."""
    groups: dict[str, list[bool]] = {}
    for row in rows:
        groups.setdefault(row["id"], []).append(row["verdict"] == "correct")
    accuracy = sum(sum(g) / len(g) for g in groups.values()) / max(1, len(groups))
    interval = [max(0.0, accuracy - 0.1), min(1.0, accuracy + 0.1)]
    return {
        "method": "eval", "accuracy": accuracy, "accuracy_ci": interval,
        "n": len(groups), "k": max(map(len, groups.values()), default=1), "tokens_mean": 40.0,
        "stop_causes": {"eos": len(rows)}, "truncated": 0.0, "graded_errors": 0, "problems_per_s": 50.0,
        "tokens_per_s": 2000.0, "dataset": "game", "split": "test", "grader": "exact",
        "engine": "transformers", "sampling": SAMPLING, "latents_mean": None, **more,
    }  # fmt: skip


def thinking(mean: float = 8.0, **more: Any) -> dict[str, Any]:
    """What an evaluation with latent steps has besides."""
    tokens = more.get("tokens_mean", 2.0)
    return {"tokens_mean": tokens, "latents_mean": mean, "positions_mean": tokens + mean,
            "latent_causes": {"fixed": 10}, "latent": LATENT, **more}  # fmt: skip


def write_run(
    runs: Path,
    name: str,
    evals: Mapping[str, tuple[dict[str, Any] | None, list[dict[str, Any]] | None]],
    *,
    settings: Mapping[str, Any] | None = None,
    debug: bool = False,
    cluster: str = "local",
) -> RunPaths:
    """A run whose one job holds a training and these evaluations: stage -> (result.json, samples.jsonl),
    either may be absent. `settings`: more keys of each eval stage in spec.json."""
    run = RunPaths(runs / name)
    run.root.mkdir(parents=True)
    stages = ["sft", *evals]
    job = JobPlan("all", stages, [], "train", 1, 1, 0, None, None, 60, "python")
    block = {"max_batch": 64, "max_batch_tokens": 32768, "precision": "auto"}
    shared = {"method": "eval", "dataset": {"name": "game"}, "sampling": SAMPLING, "eval": block}
    listed = [
        {"name": "sft", "method": "sft"},
        *({"name": stage, **shared, **(settings or {})} for stage in evals),
    ]
    write_json(run.spec, {"experiment": {"name": name, "stages": listed}, "provenance": {}})
    Plan(name, "0" * 64, {"name": cluster, "executor": "local"}, [job], debug=debug).save(run.plan)
    for stage, (numbers, rows) in evals.items():
        paths = run.job("all").stage(stage)
        if numbers is not None:
            write_json(paths.result, numbers)
        if rows is not None:
            write_text(paths.samples, "".join(json.dumps(row) + "\n" for row in rows))
    write_json(run.job("all").stage("sft").result, {"method": "sft", "loss": 0.1, "steps": 10})
    return run


def write_sweep(runs: Path, name: str, points: Mapping[str, Mapping[str, Any]]) -> None:
    """`sweep.json` over runs that are there: run id -> what it varies."""
    listed = [{"run": run, "varies": dict(varies)} for run, varies in points.items()]
    write_json(runs / "sweeps" / name / "sweep.json", {"version": 1, "id": name, "points": listed})
