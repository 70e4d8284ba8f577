"""The result table says what the result files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latentctl.record.atomic import write_json
from latentctl.record.paths import RunPaths
from latentctl.record.plan import JobPlan, Plan
from latentctl.report.many import sweep_table
from latentctl.report.result import run_table, stage_results
from latentctl.runs.sweeps import SweepPoint

SCORE = {
    "accuracy": 0.8333, "accuracy_ci": [0.7, 0.91], "n": 120, "k": 1, "tokens_mean": 33.25, "truncated": 0.05,
    "stop_causes": {"eos": 114, "length": 6}, "graded_errors": 2, "tokens_per_s": 1234.5, "engine": "vllm",
    "problems_per_s": 4.0, "seconds": 30.2, "dataset": "gsm8k", "method": "eval",
    "leakage": {"sets": [{"stage": "sft", "checked": True, "exact": 3, "near": 1}]},
}  # fmt: skip
TRAIN = {
    "loss": 0.2134567, "steps": 400, "tokens": 123456, "train_seconds": 65.0, "method": "sft",
    "best": {"metric": "loss", "value": 0.2, "step": 300},
}  # fmt: skip


def make_run(root: Path, results: dict[str, dict[str, Any]]) -> RunPaths:
    run = RunPaths(root)
    job = JobPlan("all", list(results), [], "train", 1, 1, 0, None, None, 60, "python")
    root.mkdir(parents=True)
    Plan(root.name, "0" * 64, {"name": "local"}, [job]).save(run.plan)
    for stage, numbers in results.items():
        if numbers:
            write_json(run.job("all").stage(stage).result, numbers)
    return run


def test_every_number_of_an_evaluation_is_in_the_table(tmp_path: Path) -> None:
    text = run_table(stage_results(make_run(tmp_path / "r", {"sft": TRAIN, "score": SCORE})))
    for part in (
        "score",
        "gsm8k",
        "83.3 %",
        "70.0-91.0",
        "120",
        "33.2",
        "S/PROB",
        " 0.25",
        "length 5 %",
        "1,234 tokens/s by vllm",
    ):
        assert part in text, part
    assert "eos 95 %, length 5 %" in text
    assert "2 answers could not be graded" in text
    assert "3 questions also stand in the data of sft, 1 nearly" in text
    for part in ("sft", "400", "0.2135", "loss 0.2 @ 300", "123,456", "1m05s"):
        assert part in text, part
    assert all(len(line) <= 80 for line in text.splitlines())


def test_several_samples_per_problem_have_their_own_line(tmp_path: Path) -> None:
    many = {**SCORE, "k": 4, "avg_at_k": 0.5, "pass_at_k": {"1": 0.5, "2": 0.625, "4": 0.75}, "maj_at_k": 0.6}
    text = run_table(stage_results(make_run(tmp_path / "r", {"score": many})))
    assert "avg@4 50.0 %; pass@1 50.0 %; pass@2 62.5 %; pass@4 75.0 %; maj@4 60.0 %" in text


def test_unfinished_stages_are_not_in_the_table(tmp_path: Path) -> None:
    results = stage_results(make_run(tmp_path / "r", {"sft": TRAIN, "score": {}}))
    assert [r.stage for r in results] == ["sft"]
    assert run_table([]) == ""


def test_a_sweep_has_one_row_per_point_and_seeds_in_it(tmp_path: Path) -> None:
    runs = []
    for lr, accuracies in {1e-3: (0.5, 0.6), 1e-4: (0.2, 0.2)}.items():
        for seed, accuracy in enumerate(accuracies):
            run = make_run(tmp_path / f"r-{lr}-{seed}", {"score": {**SCORE, "accuracy": accuracy}})
            runs.append((run, {"train.lr": lr, "seed": seed}))
    lines = sweep_table([SweepPoint(*each) for each in runs]).splitlines()
    assert lines[0] == "dataset gsm8k"
    assert [line.split()[0] for line in lines[1:4]] == ["EVALUATION", "lr=0.001", "lr=0.0001"]
    assert lines[4] == "* the highest of its dataset"
    assert "55.0 %" in lines[2]
    assert " 2 " in lines[2]
    assert "20.0 %" in lines[3]


def test_latent_steps_have_a_column_where_there_are_any(tmp_path: Path) -> None:
    """Accuracy with interval, visible tokens, latent steps and seconds within 80 columns, names whole."""
    slow = {**SCORE, "dataset": "shell-game", "n": 300, "accuracy": 1.0, "accuracy_ci": [0.987, 1.0]}
    thinks = {**slow, "tokens_mean": 2.0, "latents_mean": 8.0, "latent_causes": {"fixed": 300}}
    results = {"answer-eval": slow, "cot-eval": slow, "coconut.6-eval": thinks}
    lines = run_table(stage_results(make_run(tmp_path / "r", results))).splitlines()
    assert lines[0].split() == [
        "EVAL",
        "DATASET",
        "ACCURACY",
        "95",
        "%",
        "CI",
        "N",
        "TOKENS",
        "LATENT",
        "S/PROB",
    ]
    assert lines[2].split() == [
        "cot-eval",
        "shell-game",
        "100.0",
        "%",
        "98.7-100.0",
        "300",
        "33.2",
        "-",
        "0.25",
    ]
    assert lines[3].split() == [
        "coconut.6-eval",
        "shell-game",
        "100.0",
        "%",
        "98.7-100.0",
        "300",
        "2",
        "8",
        "0.25",
    ]
    assert any(
        line.startswith("  coconut.6-eval: stopped by: eos 95 %, length 5 %; latent: fixed 100 %")
        for line in lines
    )
    assert all(len(line) <= 80 for line in lines)


def test_a_single_seed_keeps_the_interval_over_problems(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", {"score": SCORE})
    assert "70.0-91.0" in sweep_table([SweepPoint(run, {"train.lr": 1})])


def test_numbers_come_back_as_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", {"score": SCORE})
    assert stage_results(run)[0].numbers == json.loads(json.dumps(SCORE))


def test_seeds_that_agree_are_not_taken_for_certainty(tmp_path: Path) -> None:
    """Two seeds of 0 % on twelve problems: as uncertain as one such run."""
    score = {**SCORE, "accuracy": 0.0, "accuracy_ci": [0.0, 0.242], "n": 12}
    runs = [(make_run(tmp_path / str(i), {"score": score}), {"seed": i}) for i in range(2)]
    assert "0.0-24.2" in sweep_table([SweepPoint(*each) for each in runs])
