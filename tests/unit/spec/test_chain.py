"""A curriculum is written once and becomes a chain of stages."""

from __future__ import annotations

import time
from typing import Any

import pytest
from spec_recipes import HEAD, Recipes

from latentctl.plan.build import build_plan
from latentctl.spec.experiment import Experiment
from latentctl.spec.load import load_mapping
from latentctl.spec.profiles import load_profile
from latentctl.spec.stage import StageBase

ONE = HEAD + "method: coconut\n"
TWO = """\
model: some/model
dataset: {name: gsm8k, limit: 512}
train: {lr: 1e-4}
stages:
- {name: cot, method: coconut, coconut: {variant: cot}}
- name: latent
  method: coconut
  train: {batch: 64, eval_every: 9, save_every: 5, keep: {best: loss}}
  validation: math
  coconut: {max_stage: 2, epochs: "6 3^3"}
"""


def stages(recipes: Recipes, text: str, *sets: str) -> list[StageBase]:
    return recipes.point(text, *sets).experiment.stages


def shape(found: list[StageBase]) -> list[tuple[str, int | None, Any]]:
    """Name, curriculum stage and epochs of the stages that train."""
    return [
        (s.name, s.settings.model_dump()["stage"], s.train.epochs) for s in found if s.method == "coconut"
    ]


def test_one_entry_for_each_stage(recipes: Recipes) -> None:
    found = stages(recipes, ONE + "coconut: {epochs: [6, 3, 3, 3, 3]}\n")
    assert shape(found) == [
        ("coconut.0", 0, 6),
        ("coconut.1", 1, 3),
        ("coconut.2", 2, 3),
        ("coconut.3", 3, 3),
        ("coconut.4", 4, 3),
    ]
    assert [s.from_ for s in found] == ["model", "coconut.0", "coconut.1", "coconut.2", "coconut.3"]


def test_the_short_way_of_writing_the_same_gives_the_same(recipes: Recipes) -> None:
    listed = recipes.point(ONE + "coconut: {epochs: [6, 3, 3, 3, 3]}\n").experiment
    assert recipes.point(ONE + "coconut: {epochs: 6 3^4}\n").experiment == listed


@pytest.mark.parametrize(
    ("block", "train", "expected"),
    [
        ("{epochs: 2, max_stage: 1}", "", [(0, 2, None), (1, 2, None), (2, 2, None)]),
        ("{epochs: 0.5, max_stage: 0}", "", [(0, 0.5, None), (1, 0.5, None)]),
        ("{optimizer_steps: [7, 9], max_stage: 0}", "", [(0, None, 7), (1, None, 9)]),
        ("{optimizer_steps: 7^2, max_stage: 0}", "", [(0, None, 7), (1, None, 7)]),
        ("{max_stage: 0}", "train: {steps: 5}\n", [(0, None, 5), (1, None, 5)]),
        ("{max_stage: 0}", "train: {epochs: 5}\n", [(0, 5, None), (1, 5, None)]),
        ("{max_stage: 0}", "", [(0, None, None), (1, None, None)]),
        (
            "{first_stage: 1, epochs: [3, 3, 3, 13]}",
            "",
            [(1, 3, None), (2, 3, None), (3, 3, None), (4, 13, None)],
        ),
        ("{epochs: [3, 3]}", "", [(0, 3, None), (1, 3, None)]),
        ("{first_stage: 4, epochs: [3]}", "", [(4, 3, None)]),
        ("{variant: no_thoughts, epochs: [3, 3]}", "", [(0, 3, None), (1, 3, None)]),
        ("{count: per_example, max_stage: 1, epochs: 1^3}", "", [(0, 1, None), (1, 1, None), (2, 1, None)]),
    ],
)
def test_lengths(recipes: Recipes, block: str, train: str, expected: list[Any]) -> None:
    found = stages(recipes, f"{ONE}coconut: {block}\n{train}")
    assert [(s.settings.model_dump()["stage"], s.train.epochs, s.train.steps) for s in found] == expected


@pytest.mark.parametrize(
    ("block", "stage"),
    [
        ("{variant: cot}", None),
        ("{variant: no_cot}", None),
        ("{curriculum: false}", 4),
        ("{stage: 2}", 2),
        ("{count: difficulty, difficulty: {max: 8}, dynamic: true}", 4),
    ],
)
def test_without_a_curriculum_it_stays_one_stage(recipes: Recipes, block: str, stage: int | None) -> None:
    for lengths in ("", ", epochs: 7", ", epochs: [7]"):
        found = stages(recipes, f"{ONE}coconut: {block[:-1]}{lengths}}}\n")
        assert shape(found) == [("coconut", stage, 7 if lengths else None)]


def test_every_link_has_what_the_stage_says(recipes: Recipes) -> None:
    found = stages(recipes, TWO)
    assert [s.name for s in found] == ["cot", "latent.0", "latent.1", "latent.2", "latent.3"]
    for one in found[1:]:
        assert (one.train.lr, one.train.batch, one.train.keep.best) == (1e-4, 64, "loss")
        assert one.validation is not None
        settings = one.settings.model_dump()
        assert (settings["max_stage"], settings["epochs"], settings["eval_each"]) == (2, None, False)
    assert [s.from_ for s in found] == ["model", "cot", "latent.0", "latent.1", "latent.2"]


def test_the_kind_of_latent_step_and_its_markers_are_said_in_the_spec(recipes: Recipes) -> None:
    for text, kind, start in (
        (ONE, "hidden", "<|start-latent|>"),
        (ONE + "latent: {input: pause, markers: think}\n", "pause", "<think>"),
        (ONE + "latent: {input: {kind: contextual, window: 2}}\n", "contextual", "<|start-latent|>"),
    ):
        for one in stages(recipes, text):
            assert one.latent is not None
            assert one.latent.input is not None
            assert one.latent.markers is not None
            assert (one.latent.input.kind, one.latent.markers.start) == (kind, start)
    for variant in ("cot", "no_cot", "no_thoughts"):
        assert all(s.latent is None for s in stages(recipes, f"{ONE}coconut: {{variant: {variant}}}\n"))


def test_its_name_means_its_last_link(recipes: Recipes) -> None:
    later = "- {method: eval, name: a}\n- {method: eval, name: b, from: latent}\n"
    later += "- {method: eval, name: c, from: latent@best}\n- {method: eval, name: d, from: latent.1@best}\n"
    later += "- {method: eval, name: e, from: latent@10}\n- {method: sft, name: f}\n"
    assert [s.from_ for s in stages(recipes, TWO + later)][5:] == [
        "latent.3", "latent.3", "latent.3@best", "latent.1@best", "latent.3@10", "latent.3"
    ]  # fmt: skip


def test_options_reach_every_link(recipes: Recipes) -> None:
    found = stages(recipes, TWO, "stages.latent.train.lr=5e-4", "stages.cot.train.lr=6e-4")
    assert [s.train.lr for s in found] == [6e-4, 5e-4, 5e-4, 5e-4, 5e-4]
    assert len(stages(recipes, TWO, "stages.latent.coconut.epochs=[1, 2]")) == 3
    assert [s.train.epochs for s in stages(recipes, ONE, "coconut.epochs=1^2")] == [1, 1]


def test_a_sweep_may_change_the_chain(recipes: Recipes) -> None:
    points = recipes.load(
        ONE + "sweep: {grid: {coconut.max_stage: [0, 1], coconut.variant: [coconut, cot]}}\n"
    ).points
    assert [[s.name for s in p.experiment.stages] for p in points] == [
        ["coconut.0", "coconut.1"],
        ["coconut"],
        ["coconut.0", "coconut.1", "coconut.2"],
        ["coconut"],
    ]
    points = recipes.load(ONE, grid=("coconut.epochs=[3^2, [1], 2]",)).points
    assert [[s.train.epochs for s in p.experiment.stages] for p in points] == [[3, 3], [1], [2] * 5]


def test_every_value_knows_where_it_was_written(recipes: Recipes) -> None:
    provenance = recipes.point(TWO.replace('"6 3^3"', "[6, 3, 2.5]")).provenance
    assert provenance["stages.latent.0.train.epochs"] == "r.yaml:10:36"
    assert provenance["stages.latent.2.train.epochs"] == "r.yaml:10:42"
    assert provenance["stages.latent.2.coconut.stage"] == "r.yaml:10:42"
    assert provenance["stages.latent.1.train.lr"] == "r.yaml:3:13"
    assert provenance["stages.latent.1.latent.input.kind"] == "default"
    option = recipes.point(ONE, "coconut.epochs=6 3^4").provenance
    assert option["stages.coconut.3.train.epochs"] == "--set coconut.epochs"


def test_spec_json_is_read_back_as_it_is(recipes: Recipes) -> None:
    experiment = recipes.point(TWO.replace("max_stage: 2", "max_stage: 2, eval_each: true")).experiment
    assert Experiment.model_validate(experiment.dump()) == experiment


def test_a_recipe_in_memory_becomes_a_chain_too() -> None:
    data = {"model": "m", "dataset": "gsm8k", "method": "coconut", "coconut": {"epochs": "6 3^4"}}
    assert len(load_mapping(data).points[0].experiment.stages) == 5


EACH = TWO.replace("max_stage: 2", "max_stage: 1, eval_each: EACH").replace("6 3^3", "6 3^2")


def evals(recipes: Recipes, each: str, text: str = EACH, *sets: str) -> list[StageBase]:
    return [s for s in stages(recipes, text.replace("EACH", each), *sets) if s.method == "eval"]


def test_an_evaluation_stands_after_each_link(recipes: Recipes) -> None:
    found = stages(recipes, EACH.replace("EACH", "true"))
    assert [(s.name, s.from_) for s in found] == [
        ("cot", "model"),
        ("latent.0", "cot"),
        ("latent.0-eval", "latent.0"),
        ("latent.1", "latent.0"),
        ("latent.1-eval", "latent.1"),
        ("latent.2", "latent.1"),
        ("latent.2-eval", "latent.2"),
    ]


def test_it_asks_the_validation_problems_or_the_test_split(recipes: Recipes) -> None:
    (first, *_) = evals(recipes, "true")
    assert (first.dataset.name, first.dataset.split, first.dataset.limit) == ("math", "valid", None)
    without = EACH.replace("  validation: math\n", "").replace("eval_every: 9, ", "")
    (first, *_) = evals(recipes, "true", without.replace(", keep: {best: loss}", ""))
    assert (first.dataset.name, first.dataset.split, first.dataset.limit) == ("gsm8k", "test", 512)
    (first,) = evals(recipes, "true", ONE + "coconut: {variant: cot, eval_each: EACH}\n")
    assert (first.name, first.dataset.split) == ("coconut-eval", "test")
    split = "model: m\ndataset: {name: gsm8k, split: train, start: 9}\nmethod: coconut\n"
    split += "coconut: {eval_each: EACH}\n"
    assert evals(recipes, "true", split)[0].dataset.split == "test"


def test_its_map_stands_over_what_the_recipe_says_for_every_stage(recipes: Recipes) -> None:
    text = EACH + "eval: {max_batch: 8}\nsampling: {max_new_tokens: 64}\nlatent: {markers: think, stop: 3}\n"
    each = "{dataset: {limit: 20}, eval: {trace: summary}, latent: {stop: 5}, resources: {gpus: 2}}"
    for one in evals(recipes, each, text):
        assert one.dataset.limit == 20
        assert one.settings.model_dump()["max_batch"] == 8
        assert one.settings.model_dump()["trace"] == "summary"
        assert one.sampling.max_new_tokens == 64
        assert one.resources.gpus == 2
        assert one.latent is not None
        assert one.latent.stop is not None
        assert (one.latent.stop.fixed, one.latent.markers) == (5, None)


def test_its_latent_settings_are_the_checkpoints(recipes: Recipes) -> None:
    text = EACH + "latent: {input: {kind: contextual, weights: learned}, markers: think}\n"
    assert all(one.latent is None for one in evals(recipes, "true", text))


def test_an_empty_map_asks_for_evaluations_too(recipes: Recipes) -> None:
    assert len(evals(recipes, "{}")) == 3
    assert len(evals(recipes, "false")) == 0


def test_each_link_is_a_job_if_the_recipe_says_so(recipes: Recipes) -> None:
    profile = load_profile("local")
    for jobs, expected in (
        (
            "per_stage",
            ["cot", "latent.0", "latent.0-eval", "latent.1", "latent.1-eval", "latent.2", "latent.2-eval"],
        ),
        ("auto", ["cot+6"]),
    ):
        experiment = recipes.point(EACH.replace("EACH", "true"), f"jobs={jobs}").experiment
        plan = build_plan(experiment, profile, "r-00000000", "0" * 64)
        assert [j.name for j in plan.jobs] == expected
    assert {j.name: j.after for j in plan.jobs} == {"cot+6": []}
    experiment = recipes.point(EACH.replace("EACH", "true"), "jobs=per_stage").experiment
    after = {j.name: j.after for j in build_plan(experiment, profile, "r-00000000", "0" * 64).jobs}
    assert (after["latent.1"], after["latent.1-eval"], after["latent.0"]) == (
        ["latent.0"],
        ["latent.1"],
        ["cot"],
    )


def test_a_very_long_chain(recipes: Recipes) -> None:
    begin = time.process_time()
    text = ONE + "coconut: {max_stage: 1000, epochs: 1^1000 2^2, eval_each: true}\njobs: per_stage\n"
    experiment = recipes.point(text).experiment
    plan = build_plan(experiment, load_profile("local"), "r-00000000", "0" * 64)
    assert len({j.name for j in plan.jobs}) == len(plan.jobs) == 2004
    assert plan.jobs[-1].after == ["coconut.1001"]
    assert experiment.stages[-2].train.epochs == 2
    assert time.process_time() - begin < 30


BAD = [
    (
        "coconut: {epochs: 6 3^}",
        "r.yaml:4:19: coconut.epochs: '6 3^': '3^': expected a number, or such as 3^4",
    ),
    ("coconut: {epochs: 6 ^3}", "'^3': expected a number"),
    ("coconut: {epochs: 6 3^0}", "'3^0': repeat 1 to 1002 times"),
    ("coconut: {epochs: 6 3^9999}", "'3^9999': repeat 1 to 1002 times"),
    ("coconut: {epochs: 6 3^1000 3^1000}", "more than 1002 entries"),
    ("coconut: {epochs: 6 3**4}", "'3**4': expected a number"),
    ("coconut: {epochs: six}", "coconut.epochs: 'six': expected a number, or such as 3^4 for four times 3"),
    ("coconut: {epochs: 6 -3}", "'-3': expected a number above 0"),
    ("coconut: {epochs: 6 nan}", "'nan': expected a number above 0"),
    ("coconut: {epochs: 6 inf}", "'inf': expected a number above 0"),
    ("coconut: {epochs: ''}", "empty: expected such as 6 3^4"),
    ("coconut: {epochs: []}", "a list of 0: expected at least 1 items"),
    ("coconut: {epochs: 0}", "r.yaml:4:19: coconut.epochs: 0: expected a number above 0 or a list"),
    ("coconut: {epochs: [1, -1]}", "r.yaml:4:23: coconut.epochs.1: -1: wrong in a number above 0"),
    ("coconut: {epochs: [1, [2]]}", "r.yaml:4:23: coconut.epochs.1: a list of 1: "),
    ("coconut: {epochs: {a: 1}}", "a map (a): expected a number above 0 or a list"),
    ("coconut: {epochs: true}", "true: expected a number above 0"),
    ("coconut: {optimizer_steps: 2.5}", "2.5: expected a whole number of at least 1"),
    ("coconut: {optimizer_steps: [2, 2.5]}", "coconut.optimizer_steps.1: 2.5: wrong in a whole number"),
    ("coconut: {optimizer_steps: 2 2.5}", "expected a whole number of at least 1"),
    ("coconut: {epochs: 1, optimizer_steps: 2}", "r.yaml:4:22: coconut: give epochs or optimizer_steps"),
    (
        "coconut: {epochs: [1, 1, 1, 1, 1, 1]}",
        "r.yaml:4:35: coconut.epochs: 6 entries of epochs for the stages 0 to 4\n"
        "hint: at most 5 entries; the last stage is max_stage + 1 = 4",
    ),
    ("coconut: {epochs: 6 3^5}", "r.yaml:4:19: coconut.epochs: 6 entries of epochs for the stages 0 to 4"),
    (
        "coconut: {epochs: 3^5, first_stage: 1}",
        "5 entries of epochs for the stages 1 to 4\nhint: at most 4 entries",
    ),
    ("coconut: {epochs: 3^2, first_stage: 4}", "2 entries of epochs for the stage 4\nhint: at most 1 entry;"),
    ("coconut: {count: per_example, epochs: 3^6}", "6 entries of epochs for the stages 0 to 4"),
    ("coconut: {optimizer_steps: 3^6}", "6 entries of optimizer_steps for"),
    ("coconut: {variant: cot, epochs: 3^2}", "2 entries of epochs for one stage without a curriculum"),
    ("coconut: {curriculum: false, epochs: 3^2}", "2 entries of epochs for one stage without a curriculum"),
    ("coconut: {stage: 1, epochs: 3^2}", "2 entries of epochs for one stage without a curriculum"),
    (
        "coconut: {first_stage: 5}",
        "r.yaml:4:11: coconut: first_stage (5) is beyond the last stage, max_stage + 1 (4)",
    ),
    ("coconut: {stage: 5}", "stage (5) is beyond the last stage, max_stage + 1 (4)"),
    (
        "coconut: {epochs: 2}\ntrain: {epochs: 3}",
        "r.yaml:5:9: train.epochs: does nothing: coconut.epochs says the length of every stage",
    ),
    ("coconut: {epochs: 2}\ntrain: {steps: 3}", "train.steps: does nothing: coconut.epochs says the length"),
    (
        "coconut: {eval_each: {smapling: {}}}",
        "r.yaml:4:23: coconut.eval_each.smapling: unknown key\nhint: did you mean",
    ),
    (
        "coconut: {eval_each: {sampling: {max_new_token: 3}}}",
        "r.yaml:4:34: coconut.eval_each.sampling.max_new_token: unknown key\nhint: did you mean max_new_t",
    ),
    ("coconut: {eval_each: {from: model}}", "coconut.eval_each.from: unknown key"),
    ("coconut: {eval_each: {train: {lr: 1}}}", "coconut.eval_each.train: unknown key"),
    ("coconut: {eval_each: {coconut: {}}}", "coconut.eval_each.coconut: unknown key"),
    (
        "coconut: {eval_each: {sampling: {max_new_tokens: x}}}",
        "r.yaml:4:50: coconut.eval_each.sampling.max_new_tokens: 'x': expected a whole number",
    ),
    (
        "coconut: {eval_each: {dataset: nope}}",
        "r.yaml:4:32: coconut.eval_each.dataset: 'nope' is not a known dataset",
    ),
    ("coconut: {eval_each: yes}", "'yes': expected true or false or a map\nhint: write true"),
    ("coconut: {eval_each: [1]}", "a list of 1: expected true or false or a map"),
    ("sampling: {max_new_tokens: 5}", "sampling: does nothing: there is no stage that reads it"),
    ("coconut: {stages: 3}", "coconut.stages: unknown key\nhint: "),
    ("name: 3", "3: expected a text"),
]


@pytest.mark.parametrize(("text", "expected"), BAD, ids=[t[-44:] for t, _ in BAD])
def test_what_is_wrong_with_a_curriculum_is_told_once(recipes: Recipes, text: str, expected: str) -> None:
    (line,) = recipes.lines(f"{ONE}{text}\n")
    assert expected in line


BAD_STAGES = [
    ("- {method: sft, name: latent.2}\n", "the name 'latent.2' is one of the chain that latent becomes"),
    (
        "- {method: eval, from: latet}\n",
        "'latet': there is no such stage, and no such directory\nhint: did you mean latent.3?",
    ),
    ("- {method: eval, from: latent.7}\n", "hint: did you mean latent.3?"),
    ("- {method: eval, from: latent@7}\n", "no checkpoint at step 7\nhint: set train.save_every in latent "),
    ("- {method: eval, from: cot@best}\n", "cot keeps no best checkpoint\nhint: set train.keep.best in cot,"),
    ("- {method: coconut, name: x, from: x}\n", "'x': a stage cannot start from itself"),
    ("- {method: coconut, name: x, from: x.2}\n", "'x.2': a stage cannot start from itself"),
    ("- {method: coconut, name: x, from: y}\n- {method: sft, name: y}\n", "'y': the stage y comes later"),
    ("- {method: coconut, name: x, coconut: {epochs: 0}}\n- {method: eval, from: x.1}\n", "epochs: 0: "),
    ("- {method: coconut, name: x123456789012345678901234567890123456789}\n", "is longer than 40 signs"),
    ("- {method: coconut, name: A b}\n", "expected lower-case letters"),
    ("- {method: coconut, name: x, train: 3}\n", "3: expected a map with some of the keys batch,"),
    ("- {method: coconut, name: x, latent: soft}\n", "'soft': expected a map with some of the keys input,"),
    ("- {method: coconut, name: x, sampling: {}}\n", "does nothing in a stage of the method coconut"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), BAD_STAGES, ids=[t[-50:] for t, _ in BAD_STAGES])
def test_what_is_wrong_around_a_chain_points_at_the_recipe(
    recipes: Recipes, text: str, expected: str
) -> None:
    lines = recipes.lines(TWO + text)
    assert all(line.startswith("r.yaml:11:") for line in lines)
    assert expected in lines[0]
    assert len({line.split(": ")[1] for line in lines}) == len(lines)


def test_a_wrong_value_is_told_once_however_long_the_chain(recipes: Recipes) -> None:
    (line,) = recipes.lines(TWO.replace("batch: 64", "batch: 0"))
    assert line.startswith("r.yaml:8:18: stages.latent.train.batch: 0: expected a whole number")
    (line,) = recipes.lines("model: m\nmethod: coconut\n")
    assert line == "r.yaml:1:1: dataset: missing"
    (line,) = recipes.lines("model: m\nstages: [coconut]\n")
    assert line == "r.yaml:2:10: stages.coconut.dataset: missing"


def test_one_link_cannot_be_set_alone(recipes: Recipes) -> None:
    (line,) = recipes.lines(TWO, "stages.latent.2.train.lr=1")
    assert "one stage of the chain that latent becomes cannot be set alone" in line
    assert line.endswith("hint: all of them: stages.latent.train.lr")


def test_an_option_that_reaches_no_link_is_told(recipes: Recipes) -> None:
    text = HEAD + "stages:\n- {method: coconut, coconut: {epochs: 2}}\n"
    (line,) = recipes.lines(text, "train.epochs=3")
    assert line.startswith("--set train.epochs: train.epochs at the top does nothing: every stage")
    assert len(stages(recipes, text, "coconut.eval_each=true")) == 10
