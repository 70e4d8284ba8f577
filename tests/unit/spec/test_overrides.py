"""`--set` and where every value comes from."""

from __future__ import annotations

from typing import Any

import pytest
from spec_recipes import HEAD, Recipes

TWO = HEAD + "train: {lr: 1e-3}\nstages:\n- {name: warm.up, method: sft}\n- sft\n- eval\n"


def value(recipes: Recipes, text: str, *sets: str, stage: int = 0) -> Any:
    return recipes.point(text, *sets).experiment.stages[stage]


def test_a_value_is_yaml(recipes: Recipes) -> None:
    stage = value(
        recipes, HEAD + "method: sft\n", "train.lr=3e-4", "train.betas=[0.9, 0.95]", "sft.packing=true"
    )
    assert (stage.train.lr, stage.train.betas, stage.sft.packing) == (3e-4, [0.9, 0.95], True)


def test_a_value_may_hold_an_equals_sign(recipes: Recipes) -> None:
    stage = value(recipes, HEAD + "method: sft\n", "prompt.system=a=b")
    assert stage.prompt.system == "a=b"


@pytest.mark.parametrize("text", ["train.lr=null", "train.lr="])
def test_null_takes_a_value_away(recipes: Recipes, text: str) -> None:
    assert value(recipes, HEAD + "method: sft\ntrain: {lr: 1e-3}\n", text).train.lr == 1e-5


def test_the_last_of_two_counts(recipes: Recipes) -> None:
    assert value(recipes, HEAD + "method: sft\n", "train.lr=1e-3", "train.lr=1e-4").train.lr == 1e-4


def test_a_short_form_grows(recipes: Recipes) -> None:
    stage = value(recipes, HEAD + "method: sft\n", "dataset.limit=7", "model.revision=main")
    assert (stage.dataset.name, stage.dataset.limit) == ("gsm8k", 7)
    assert (stage.model.path, stage.model.revision) == ("some/model", "main")


def test_a_short_form_replaces_the_whole_block(recipes: Recipes) -> None:
    text = "model: a/b\ndataset: {name: shell-game, options: {cups: 3}}\nmethod: sft\n"
    stage = value(recipes, text, "dataset=gsm8k")
    assert (stage.dataset.name, stage.dataset.options) == ("gsm8k", {})


@pytest.mark.parametrize("address", ["stages.sft", "stages.1"])
def test_stages_are_addressed_by_name_or_number(recipes: Recipes, address: str) -> None:
    experiment = recipes.point(TWO, f"{address}.train.lr=5e-4").experiment
    assert [s.train.lr for s in experiment.stages[:2]] == [1e-3, 5e-4]


def test_a_stage_name_may_hold_dots(recipes: Recipes) -> None:
    experiment = recipes.point(TWO, "stages.warm.up.train.lr=5e-4").experiment
    assert [s.train.lr for s in experiment.stages[:2]] == [5e-4, 1e-3]


def test_the_only_stage_has_the_name_of_its_method(recipes: Recipes) -> None:
    assert value(recipes, HEAD + "method: sft\n", "stages.sft.train.lr=5e-4").train.lr == 5e-4


def test_what_stands_at_the_top_reaches_the_stages_that_are_silent(recipes: Recipes) -> None:
    text = HEAD + "stages:\n- {method: sft, train: {lr: 1e-3}}\n- sft\n"
    assert [s.train.lr for s in recipes.point(text, "train.lr=2e-3").experiment.stages] == [1e-3, 2e-3]


def test_stages_can_be_replaced(recipes: Recipes) -> None:
    assert [s.name for s in recipes.point(TWO, "train=null", "stages=[eval]").experiment.stages] == ["eval"]


BAD = [
    (["train.lr"], "--set: 'train.lr' is not KEY=VALUE\nhint: write it like --set train.lr=1e-4"),
    (["=3"], "'=3' is not KEY=VALUE"),
    (["a..b=3"], "'a..b=3' is not KEY=VALUE"),
    ([""], "'' is not KEY=VALUE"),
    (["train.lrr=3"], "--set train.lrr: unknown key\nhint: did you mean lr?"),
    (["lr=3"], "--set lr: unknown key\nhint: lr belongs under train"),
    (["trian.lr=3"], "--set trian.lr: trian: unknown key\nhint: did you mean train?"),
    (["train.lr.x=3"], "--set train.lr.x: train.lr: a map (x): expected a number"),
    (["train.lr=fast"], "--set train.lr: 'fast': expected a number above 0 and below 10"),
    (["train.lr=[1"], "--set train.lr: not YAML"),
    (["train.lr=*x"], "--set train.lr: there is no anchor &x"),
    (["train.lr=!x 3"], "--set train.lr: the tag !x is not supported"),
    (["stages.sfft.train.lr=1"], "there is no stage 'sfft'\nhint: did you mean stages.sft?"),
    (["stages.7.train.lr=1"], "there is no stage '7'\nhint: its stages: warm.up, sft, eval (or 0 to 2)"),
    (["stages.sft.name=warm.up"], "two stages are named 'warm.up'"),
    (["stages.sft=3"], "a stage is a method's name or a map"),
    (["stages=3"], "--set stages: 3: expected a list of stages"),
    (["sampling.top_k=3", "stages.eval.sampling.top_k=4"], "do nothing at temperature 0"),
]


@pytest.mark.parametrize(("sets", "expected"), BAD, ids=[" ".join(s) for s, _ in BAD])
def test_a_bad_option_is_named(recipes: Recipes, sets: list[str], expected: str) -> None:
    text = "\n".join(recipes.lines(TWO, *sets))
    assert expected in text
    assert "--set" in text


def test_an_option_that_reaches_no_stage_is_refused(recipes: Recipes) -> None:
    text = HEAD + "stages:\n- {method: sft, train: {lr: 1e-3}}\n- eval\n"
    (line,) = recipes.lines(text, "train.lr=2e-3")
    assert line == (
        "--set train.lr: train.lr at the top does nothing: every stage that reads it says its own\n"
        "hint: set it in a stage: stages.NAME.train.lr"
    )


def test_the_top_of_a_one_stage_recipe_is_not_its_stage(recipes: Recipes) -> None:
    (line,) = recipes.lines(HEAD + "method: sft\n", "stages.sft.seeds=3")
    assert "this recipe has one stage, written at its top" in line


def test_file_problems_come_before_those_of_options(recipes: Recipes) -> None:
    lines = recipes.lines(HEAD + "method: sft\ntrain: {lr: 0}\n", "train.stepz=3", "nope")
    assert [line.split(": ")[0] for line in lines] == ["r.yaml:4:13", "--set train.stepz", "--set"]


def test_every_resolved_value_knows_where_it_comes_from(recipes: Recipes) -> None:
    point = recipes.point(TWO, "stages.sft.train.batch=16", "seed=5")
    origin = point.provenance
    assert origin["stages.warm.up.train.lr"] == "r.yaml:3:13"
    assert origin["stages.sft.train.batch"] == "--set stages.sft.train.batch"
    assert origin["stages.warm.up.train.batch"] == "default"
    assert origin["stages.eval.model.path"] == "r.yaml:1:8"
    assert origin["stages.eval.dataset.name"] == "r.yaml:2:10"
    assert origin["stages.eval.dataset.split"] == "default"
    assert origin["stages.eval.from"] == "default"
    assert origin["stages.sft.method"] == "r.yaml:6:3"
    assert origin["seed"] == "--set seed"
    assert origin["name"] == "default"


def test_every_leaf_of_the_spec_has_an_origin(recipes: Recipes) -> None:
    point = recipes.point(TWO)

    def leaves(data: Any, path: str) -> set[str]:
        if isinstance(data, dict) and data:
            return {leaf for k, v in data.items() for leaf in leaves(v, f"{path}.{k}" if path else k)}
        return {path}

    dump = point.experiment.dump()
    stages = {f"stages.{s['name']}": s for s in dump.pop("stages")}
    expected = leaves(dump, "") | {leaf for name, s in stages.items() for leaf in leaves(s, name)}
    assert set(point.provenance) == expected
