"""The divergence model and what reads it: what a recipe may say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from spec_recipes import HEAD, Recipes

from latentctl.plan.build import dependencies

STAGES = """\
stages:
  - {name: sft, method: sft}
  - {name: collect, method: divergence-data, sampling: {samples: 4, temperature: 1.0, max_new_tokens: 20}}
  - {name: judge, method: divergence, from: model, divergence: {data: collect}}
  - {name: measure, method: divergence-eval, divergence-eval: {data: [collect]}}
  - name: search
    method: eval
    from: sft
    sampling: {samples: 4, temperature: 1.0}
    eval: {tree: {divergence: judge}}
"""


def test_what_a_stage_reads_is_what_it_waits_for(recipes: Recipes) -> None:
    experiment = recipes.load(HEAD + STAGES).points[0].experiment
    found = dependencies(experiment)
    assert found["collect"] == ["sft"]
    assert found["judge"] == ["collect"]
    assert found["measure"] == ["collect", "judge"]
    assert found["search"] == ["sft", "judge"]
    starts = {s.name: s.from_ for s in experiment.stages}
    assert starts["measure"] == "judge"
    assert starts["judge"] == "model"


def test_an_evaluation_never_starts_from_a_divergence_model(recipes: Recipes) -> None:
    text = STAGES.replace("    from: sft\n", "")
    assert recipes.load(HEAD + text).points[0].experiment.stages[-1].from_ == "sft"
    (line,) = recipes.lines(HEAD + STAGES.replace("    from: sft\n", "    from: judge\n"))
    assert "stages.search.from: 'judge': the stage judge (divergence) makes no checkpoint" in line
    assert "stages before it that do: sft" in line


BAD = [
    ("{data: collect}", "{data: sft}", "'sft': the stage sft (sft) makes no data set"),
    ("{data: collect}", "{data: colect}", "'colect': there is no such stage, and no such file or directory\n"
     "hint: did you mean collect?"),
    ("{data: collect}", "{data: search}", "'search': the stage search comes later"),
    ("{data: collect}", "{data: collect@best}", "'collect@best': a data set has no checkpoints"),
    ("{data: collect}", "{data: 'run:a b'}", "'run:a b': expected run:ID/STAGE"),
    ("{data: collect}", "{data: []}", "divergence.data"),
    ("{data: collect}", "{}", "divergence.data: missing"),
    ("{data: collect}", "{data: .}", "'.': this is a directory, not a file"),
    ("{divergence: judge}", "{divergence: collect}", "the stage collect (divergence-data) makes no"),
    ("{divergence: judge}", "{divergence: .}", "'.': this is no divergence model"),
    ("{divergence: judge}", "{divergence: nowhere}", "there is no such stage"),
    ("from: model, ", "from: model, train: {lora: {r: 4}}, ", "a divergence model is trained whole"),
    ("from: model, ", "from: model, train: {overlong: drop}, ", "train.overlong: does nothing here"),
    ("from: model, ", "from: model, train: {micro_batch: 1}, ", "norm: batch has no deviation"),
    ("from: model, ", "from: model, prompt: {form: plain}, ", "does nothing in a stage"),
    ("method: divergence-data, ", "method: divergence-data, divergence-data: {tree: {divergence: judge}}, ",
     "the data of a divergence model is searched without one"),
    ("method: divergence-data, ", "method: divergence-data, divergence-data: {windows: [20, 20]}, ",
     "the same number stands there twice"),
    ("method: divergence-data, ", "method: divergence-data, divergence-data: {engine: vllm}, ",
     "a tree is searched by the engine transformers"),
    ("samples: 4, temperature: 1.0, max", "samples: 1, temperature: 1.0, max", "one answer is no tree"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), BAD)
def test_bad_settings_are_named(recipes: Recipes, old: str, new: str, expected: str) -> None:
    assert old in STAGES
    lines = recipes.lines(HEAD + STAGES.replace(old, new, 1))
    assert any(expected in line for line in lines), lines


def test_paths_become_absolute(recipes: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "latentctl-divergence"}))
    text = STAGES.replace("{data: [collect]}", "{data: [collect, rows.jsonl]}")
    text = text.replace("{divergence: judge}", "{divergence: model}", 1).replace(
        "{divergence: model}", "{divergence: ./model}"
    )
    stages = {s.name: s for s in recipes.load(HEAD + text).points[0].experiment.stages}
    assert getattr(stages["measure"], "divergence-eval").data == ["collect", str(tmp_path / "rows.jsonl")]
    assert stages["search"].settings.tree.divergence == str(tmp_path / "model")  # type: ignore[attr-defined]
