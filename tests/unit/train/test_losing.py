"""Points of a sweep that fall behind are stopped; the others are not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import train_harness as harness

from jobs.train.losing import Losing
from latentctl.record.paths import RunPaths
from latentctl.spec.train import StopLosingSpec

pytest.importorskip("optuna", reason="the extra `sweep` is not installed")


def sweep(root: Path, count: int) -> list[RunPaths]:
    """Run directories that sweep.json lists."""
    runs = [RunPaths(root / f"run-{i}") for i in range(count)]
    for run in runs:
        run.root.mkdir(parents=True)
        run.plan.write_text("{}")
    folder = root / "sweeps" / "s-12345678"
    folder.mkdir(parents=True)
    points = [{"run": run.id, "varies": {"train.lr": i}} for i, run in enumerate(runs)]
    (folder / "sweep.json").write_text(json.dumps({"version": 1, "id": "s-12345678", "points": points}))
    return runs


def point(run: RunPaths, **spec: object) -> Losing:
    said = {"metric": "accuracy", "after": 10, **spec}
    return Losing(StopLosingSpec.model_validate(said), run, "rl")


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_halving_lets_the_best_of_those_that_came_go_on(tmp_path: Path, metric: str) -> None:
    """Against the rule itself: among the first 1/factor, at least the best, of the values at this rung."""
    rng = random.Random(0)
    sign = -1 if metric == "loss" else 1
    seen: list[float] = []
    for run in sweep(tmp_path, 12):
        value = rng.random()
        seen.append(value)
        why = point(run, metric=metric, factor=3).stops(10, value)
        best = sorted(seen, key=lambda v: -sign * v)[: max(1, len(seen) // 3)]
        assert (why is None) == (value in best), (value, seen)
        if why is not None:
            assert why.startswith(f"a losing point: {metric} {value:.4g} at step 10 is not in the best 1/3")


def test_nothing_ends_before_its_time(tmp_path: Path) -> None:
    first, second = sweep(tmp_path, 2)
    assert point(first).stops(9, 0.9) is None
    assert point(second).stops(9, 0.1) is None
    assert point(first).stops(10, 0.9) is None
    assert point(second).stops(10, 0.1) is not None


def test_a_resumed_point_is_the_same_point(tmp_path: Path) -> None:
    first, second = sweep(tmp_path, 2)
    assert point(first).stops(10, 0.5) is None
    assert point(first).stops(10, 0.5) is None  # again, by a second attempt
    assert point(second).stops(10, 0.6) is None
    done = point(first)
    done.ended(0.5, stopped=False)
    done.ended(0.5, stopped=False)
    assert point(first).stops(20, 0.1) is None  # it is done: nothing to stop


def test_the_median_is_of_those_that_are_done(tmp_path: Path) -> None:
    *before, good, bad = sweep(tmp_path, 6)
    for i, run in enumerate(before):
        one = point(run, pruner="median", points=4)
        assert one.stops(10, 0.1 * (i + 1)) is None  # too few are done
        one.ended(0.1 * (i + 1), stopped=False)
    assert point(good, pruner="median", points=4).stops(10, 0.26) is None
    assert "worse than the median" in str(point(bad, pruner="median", points=4).stops(10, 0.24))


def test_a_run_outside_a_sweep_is_never_stopped(tmp_path: Path) -> None:
    run = RunPaths(tmp_path / "alone-12345678")
    run.root.mkdir()
    assert point(run).stops(10, 0.0) is None
    point(run).ended(0.0, stopped=False)


def test_a_losing_training_ends_with_what_it_learnt(tmp_path: Path) -> None:
    good, bad = sweep(tmp_path, 2)
    rows = harness.write_rows(tmp_path / "rows.jsonl", 24)
    results = []
    for run, lr in ((good, 1e-2), (bad, 1e-7)):
        train = {"lr": lr, "steps": 8, "eval_every": 2, "stop_losing": {"metric": "loss", "after": 4}}
        said = harness.experiment(rows, train, validation=harness.dataset(rows))
        case = harness.Case(str(run.root), said)
        results.append(harness.run_case(case))
        assert (case.stage / "model" / "model.safetensors").is_file()
    assert (results[0]["stopped"], results[0]["steps"]) == (None, 8)
    assert results[1]["steps"] == 4
    assert results[1]["stopped"].startswith("a losing point: loss")
