"""`latentctl calibrate`: which stage is taken, what is refused, what is shown; `latentctl eval --latents`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_world import World

from latentctl.cli import calibrate
from latentctl.cli import eval as evaluation
from latentctl.errors import UserError
from latentctl.record.calibration import Calibration, Share, Target
from latentctl.report.calibration import calibration_text
from latentctl.report.result import StageResult, run_table
from latentctl.spec.load import load_mapping

SOFT = """\
name: soft
model: some/model
dataset: {name: gsm8k, limit: 7}
prompt: {form: plain, markers: think}
latent: {input: {kind: soft, top_p: 0.95, max_topk: null}, stop: {end_marker: true, max_len: 60}}
sampling: {temperature: 0.6, max_new_tokens: 100}
seeds: 2
stages:
  - {name: train, method: sft, from: model}
  - {name: first, method: eval, from: model, dataset: {split: valid}}
  - {name: second, method: eval, from: model}
"""


def made(tmp_path: Path, text: str = SOFT, **options: Any) -> Any:
    file = tmp_path / "soft.yaml"
    file.write_text(text)
    asked = {"target_ratio": None, "limit": None, "checkpoint": None, **options}
    data = calibrate.recipe(calibrate.experiment(file), tmp_path / "runs", **asked)
    (stage,) = load_mapping(data).points[0].experiment.stages
    return stage


def test_the_last_evaluation_is_what_is_calibrated(tmp_path: Path) -> None:
    stage = made(tmp_path)
    assert (stage.method, stage.from_, stage.model.path) == ("calibrate", "model", "some/model")
    assert (stage.dataset.name, stage.dataset.split, stage.dataset.limit) == ("gsm8k", "test", 7)
    assert stage.latent.input.max_topk is None
    assert stage.latent.input.top_p == 0.95
    assert stage.latent.stop.max_len == 60
    assert stage.sampling.temperature == 0.6
    assert stage.prompt.form == "plain"
    assert stage.calibrate.target_ratio == 0.05
    assert made(tmp_path, limit=3, target_ratio=0.1).dataset.limit == 3
    assert made(tmp_path, limit=3, target_ratio=0.1).calibrate.target_ratio == 0.1


def test_the_engine_of_an_evaluation_is_that_of_its_calibration(tmp_path: Path) -> None:
    block = (
        "eval: {engine: vllm, tensor_parallel: 2, max_batch: 9, trace: off}\nresources: {gpus: 4}\nseeds: 2"
    )
    settings = made(
        tmp_path, SOFT.replace("max_topk: null", "max_topk: 30").replace("seeds: 2", block)
    ).calibrate
    assert (settings.engine, settings.tensor_parallel, settings.max_batch) == ("vllm", 2, 9)


def test_a_stage_of_the_method_itself_goes_first(tmp_path: Path) -> None:
    own = (
        "  - {name: own, method: calibrate, from: model, calibrate: {thresholds: [0.3], target_ratio: 0.2}}\n"
    )
    text = SOFT.replace("  - {name: second", own + "  - {name: second")
    stage = made(tmp_path, text)
    assert (stage.calibrate.thresholds, stage.calibrate.target_ratio) == ([0.3], 0.2)
    assert made(tmp_path, text, target_ratio=0.4).calibrate.target_ratio == 0.4


def test_a_recipe_that_only_trains_is_calibrated_where_it_begins(tmp_path: Path) -> None:
    stage = made(tmp_path, "name: t\nmodel: some/model\ndataset: gsm8k\nmethod: sft\n")
    assert (stage.from_, stage.prompt.form, stage.dataset.split) == ("model", "plain", "train")


def test_weights_that_are_still_to_be_trained_are_refused(tmp_path: Path) -> None:
    text = SOFT.replace("second, method: eval, from: model", "second, method: eval, from: train")
    with pytest.raises(UserError, match="still to train") as refused:
        made(tmp_path, text)
    assert "--checkpoint RUN/train" in (refused.value.problems[0].hint or "")
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    stage = made(tmp_path, text, checkpoint=str(folder))
    assert (stage.from_, stage.model.path) == ("model", str(folder))


def test_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sweep of 4 points"):
        made(tmp_path, SOFT + "sweep: {grid: {sampling.temperature: [0.5, 1.0]}}\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--target-ratio", "1.5"], "above 0 and below 1"), (["--set", "calibrate.tresholds=[1]"], "thresholds"),
     (["--set", "latent.stop.max_len=-1"], "max_len"), (["--limit", "0"], "limit")],
)  # fmt: skip
def test_bad_options_are_told_in_one_line(world: World, options: list[str], words: str) -> None:
    (world.root / "soft.yaml").write_text(SOFT)
    done = world("calibrate", "soft.yaml", *options, code=2)
    assert words in done.err
    assert "Traceback" not in done.err
    assert world.run_names() == []


def test_a_recipe_that_is_not_there_is_told(world: World) -> None:
    done = world("calibrate", "nothing.yaml", code=None)
    assert done.code in (2, 3)
    assert "nothing.yaml" in done.err


def test_it_is_submitted_like_any_run(world: World) -> None:
    (world.root / "soft.yaml").write_text(SOFT)
    dry = world("calibrate", "soft.yaml", "--dry-run")
    assert "calibrate" in dry.out
    assert world.run_names() == []
    world("calibrate", "soft.yaml", "--no-wait", "--set", "dataset.limit=2")
    (run,) = world.run_names()
    assert run.startswith("calibrate-soft-")
    spec = json.loads((world.runs / run / "spec.json").read_text())["experiment"]
    assert spec["stages"][0]["dataset"]["limit"] == 2


CALIBRATION = Calibration(
    model="some/model", dataset="aime test", steps=12345, problems=30,
    rows=(Share(0.1, 0.301, (0.28, 0.322)), Share(1.0, 0.021, (0.0151, 0.03))),
    target=Target(0.05, 0.81234, (0.7, 0.95)), latent={}, on="input", temperature=0.6,
)  # fmt: skip


def test_the_table_says_what_was_measured_and_the_threshold() -> None:
    text = calibration_text(CALIBRATION, "cal")
    assert text.splitlines() == [
        "cal: entropy of latent steps (nats, temperature 0.6, before filters)",
        "some/model on aime test: 12,345 steps of 30 problems",
        "THRESHOLD   ABOVE    95 % CI",
        "      0.1  30.1 %  28.0-32.2",
        "        1   2.1 %    1.5-3.0",
        "5.0 % lie above 0.8123 nats (95 % CI 0.7 to 0.95)",
    ]
    assert max(map(len, text.splitlines())) <= 80


def test_a_long_path_of_a_model_is_cut_and_nothing_else() -> None:
    long = replace(CALIBRATION, model="/scratch/" + "x" * 90 + "/model")
    line = calibration_text(long, "calibrate").splitlines()[1]
    assert line.startswith("/scratch/")
    assert line.endswith("/model on aime test: 12,345 steps of 30 problems")
    assert len(line) == 80


def test_the_result_of_a_run_shows_its_calibrations() -> None:
    calibration = StageResult("r", "cal", {"method": "calibrate", "calibration": CALIBRATION.dump()})
    training = StageResult("r", "sft", {"method": "sft", "steps": 4, "loss": 0.5})
    text = run_table([training, calibration])
    assert calibration_text(CALIBRATION, "cal") in text
    assert "calibrate" not in text.split("cal: entropy")[0], "it is no training"


def test_a_warning_of_an_evaluation_is_shown_whole() -> None:
    words = "0 of 300 answers could be read: do the prompt's form, the markers and the latent settings fit?"
    text = run_table([StageResult("r", "score", {"accuracy": 0.0, "n": 300, "warnings": [words]})])
    assert words in " ".join(line.strip() for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= 80


def test_eval_asks_for_so_many_latent_steps(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": "gsm8k", "split": None, "limit": None}
    assert "latent" not in evaluation.recipe(str(tmp_path), tmp_path, **options, latents=None)
    data = evaluation.recipe(str(tmp_path), tmp_path, **options, latents=0)
    (stage,) = load_mapping(data).points[0].experiment.stages
    assert stage.latent is not None
    assert stage.latent.stop is not None
    assert (stage.latent.input, stage.latent.stop.fixed) == (None, 0)
    said = load_mapping(data, ["latent.stop.fixed=5"]).points[0].experiment.stages[0]
    assert said.latent is not None
    assert said.latent.stop is not None
    assert said.latent.stop.fixed == 5
