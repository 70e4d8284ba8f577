"""Seeds and grids: how many experiments a recipe stands for, and which."""

from __future__ import annotations

import pytest
from spec_recipes import HEAD, Recipes

from latentctl.spec.experiment import Experiment
from latentctl.spec.load import expand

SFT = HEAD + "method: sft\n"
TWO = HEAD + "stages: [sft, eval]\n"


def test_without_seeds_or_sweep_there_is_one_point(recipes: Recipes) -> None:
    point = recipes.point(SFT)
    assert (point.experiment.seed, point.varies) == (0, {})


@pytest.mark.parametrize(("said", "seeds"), [("seeds: 3", [0, 1, 2]), ("seeds: [7, 4]", [7, 4])])
def test_seeds_run_it_again(recipes: Recipes, said: str, seeds: list[int]) -> None:
    points = recipes.load(SFT + said + "\n").points
    assert [p.experiment.seed for p in points] == seeds
    assert [p.varies for p in points] == [{"seed": s} for s in seeds]
    assert points[0].provenance["seed"] == "r.yaml:4:8"


def test_one_seed_varies_nothing(recipes: Recipes) -> None:
    point = recipes.point(SFT + "seeds: [5]\n")
    assert (point.experiment.seed, point.varies) == (5, {})
    assert recipes.point(SFT + "seed: 6\n").experiment.seed == 6


def test_a_grid_is_a_product_and_seeds_vary_fastest(recipes: Recipes) -> None:
    text = (
        TWO + "seeds: 2\nsweep:\n  grid:\n    train.lr: [1e-4, 1e-5]\n    stages.eval.dataset.limit: [3, 4]\n"
    )
    points = recipes.load(text).points
    assert [tuple(p.varies.values()) for p in points] == [
        (lr, limit, seed) for lr in (1e-4, 1e-5) for limit in (3, 4) for seed in (0, 1)
    ]
    last = points[-1]
    assert last.varies == {"train.lr": 1e-5, "stages.eval.dataset.limit": 4, "seed": 1}
    sft, evaluation = last.experiment.stages
    assert (sft.train.lr, evaluation.dataset.limit, last.experiment.seed) == (1e-5, 4, 1)
    assert last.provenance["stages.sft.train.lr"] == "r.yaml:7:22"


def test_a_grid_may_vary_whole_blocks_and_short_forms(recipes: Recipes) -> None:
    points = recipes.load(
        SFT + "sweep: {grid: {model: [a/b, {init: {layers: 1}}], train.lora: [null, {r: 4}]}}\n"
    ).points
    stages = [p.experiment.stages[0] for p in points]
    assert [(s.model.path, s.train.lora and s.train.lora.r) for s in stages] == [
        ("a/b", None), ("a/b", 4), (None, None), (None, 4)
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["train.lr=1e-4,1e-5", "train.lr=[1e-4, 1e-5]"])
def test_a_grid_from_the_command_line(recipes: Recipes, text: str) -> None:
    points = recipes.load(SFT, grid=(text,)).points
    assert [p.varies for p in points] == [{"train.lr": 1e-4}, {"train.lr": 1e-5}]
    assert points[0].provenance["stages.sft.train.lr"] == "--grid train.lr"


def test_the_command_line_replaces_an_axis_of_the_recipe(recipes: Recipes) -> None:
    text = SFT + "sweep: {grid: {train.lr: [1e-4, 1e-5], train.batch: [1]}}\n"
    points = recipes.load(text, grid=("train.lr=[2e-4]",)).points
    assert [p.varies for p in points] == [{"train.lr": 2e-4, "train.batch": 1}]


def test_a_value_may_hold_commas_if_it_is_a_list(recipes: Recipes) -> None:
    points = recipes.load(SFT, grid=("train.betas=[[0.9, 0.99], [0.8, 0.9]]",)).points
    assert [p.experiment.stages[0].train.betas for p in points] == [[0.9, 0.99], [0.8, 0.9]]


def test_expand_lists_every_combination() -> None:
    assert expand({"a": [1, 2], "b": [3]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 3}]
    assert expand({}) == [{}]
    assert expand({"a": []}) == []


BAD = [
    ("sweep: {grid: {train.lrr: [1]}}", "r.yaml:4:28: train.lrr: unknown key\nhint: did you mean lr?"),
    ("sweep: {grid: {lr: [1e-4]}}", "lr: unknown key\nhint: lr belongs under train"),
    ("sweep: {grid: {train.lr: [1e-4, fast, 0]}}", "r.yaml:4:33: train.lr: 'fast': expected a number"),
    ("sweep: {grid: {train.lr: [1e-4, fast, 0]}}", "r.yaml:4:39: train.lr: 0: expected a number"),
    ("sweep: {grid: {train.lr: 1e-4}}", "r.yaml:4:26: sweep.grid.train.lr: 0.0001: expected"),
    ("sweep: {grid: {train.lr: []}}", "r.yaml:4:16: sweep.grid.train.lr: an empty list: no values to try"),
    ("sweep: {grid: {train.lr: [1, 1]}}", "1 is listed twice"),
    ("sweep: {grid: {seed: [1, 2]}}", "a sweep cannot vary seed\nhint: say seeds at the top of the recipe"),
    ("sweep: {grid: {name: [a, b]}}", "a sweep cannot vary name"),
    ("sweep: {grid: {train..lr: [1]}}", "'train..lr' is not a dotted key"),
    ("sweep: {grid: {stages.evl.dataset.limit: [1]}}", "there is no stage 'evl'"),
    ("sweep: {gird: {train.lr: [1]}}", "sweep.gird: unknown key\nhint: did you mean grid?"),
    ("sweep: [1]", "a list of 1: expected a map"),
    ("sweep: {grid: {train.epochs: [1.0]}}\ntrain: {steps: 3}", "give epochs or steps, not both"),
    (
        "seeds: 1000\nsweep: {grid: {train.batch: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}}",
        "r.yaml:5:16: sweep.grid: the sweep has 11,000 points; the limit is 10,000",
    ),
]


@pytest.mark.parametrize(("text", "expected"), BAD, ids=[t for t, _ in BAD])
def test_a_bad_sweep_is_refused(recipes: Recipes, text: str, expected: str) -> None:
    assert expected in "\n".join(recipes.lines(SFT + text + "\n"))


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ("train.lr=1e-4", "--grid train.lr: expected a list of values\nhint: write --grid train.lr=1,2,3"),
        ("train.lr=1e-4,fast", "--grid train.lr: 'fast': expected a number"),
        ("train.lr", "--grid: 'train.lr' is not KEY=VALUE"),
        ("train.lr=[", "--grid train.lr: not YAML"),
        ("train.lrr=1,2", "--grid train.lrr: unknown key"),
        ("seed=1,2", "--grid seed: a sweep cannot vary seed"),
        ("train.lr=1,1", "--grid train.lr: 1 is listed twice"),
        ("train.lr=1,[", "--grid train.lr: not YAML"),
    ],
)
def test_a_bad_grid_option_is_named(recipes: Recipes, grid: str, expected: str) -> None:
    assert expected in "\n".join(recipes.lines(SFT, grid=(grid,)))


def test_an_option_that_the_sweep_replaces_is_refused(recipes: Recipes) -> None:
    (line,) = recipes.lines(SFT + "sweep: {grid: {train.lr: [1e-4, 1e-5]}}\n", "train.lr=1e-3")
    assert line == "--set train.lr: does nothing: the sweep varies this key"


def test_listed_points_combine_with_the_grid(recipes: Recipes) -> None:
    text = """\
sweep:
  list: [{train.lr: 1e-4, train.batch: 8}, {train.lr: 1e-5}]
  grid: {train.clip: [0, 1]}
"""
    assert [p.varies for p in recipes.load(SFT + text).points] == [
        {"train.lr": 1e-4, "train.batch": 8, "train.clip": 0},
        {"train.lr": 1e-4, "train.batch": 8, "train.clip": 1},
        {"train.lr": 1e-5, "train.clip": 0},
        {"train.lr": 1e-5, "train.clip": 1},
    ]


RANDOM = """\
sweep:
  random:
    count: 50
    seed: %d
    space:
      train.lr: {low: 1e-6, high: 1e-4, log: true}
      train.batch: {low: 1, high: 64, whole: true}
      train.clip: [0, 1]
"""


def test_random_points_are_in_their_ranges_and_the_same_for_a_seed(recipes: Recipes) -> None:
    points, again, other = (recipes.load(SFT + RANDOM % seed).points for seed in (0, 0, 1))
    assert [p.varies for p in points] == [p.varies for p in again] != [p.varies for p in other]
    assert len({repr(p.varies) for p in points}) == 50
    rates = [p.experiment.stages[0].train.lr for p in points]
    assert all(1e-6 <= lr <= 1e-4 for lr in rates)
    assert 15 < sum(lr < 1e-5 for lr in rates) < 35  # half of the range on a logarithmic scale
    assert all(1 <= p.experiment.stages[0].train.batch <= 64 for p in points)
    assert {p.varies["train.clip"] for p in points} == {0, 1}


EVAL = (
    HEAD
    + """\
method: eval
prompt: {form: plain}
sweep: {grid: {dataset.limit: [1, 2, 3, 4, 5]}, pack: 2}
"""
)


def test_packed_points_are_stages_of_one_run(recipes: Recipes) -> None:
    loaded = recipes.load(EVAL + "seeds: 2\n")
    assert loaded.swept
    assert [[s.name for s in p.experiment.stages] for p in loaded.points] == [
        ["eval.1", "eval.2"], ["eval.1", "eval.2"], ["eval.1"],
    ] * 2  # fmt: skip
    assert [p.experiment.seed for p in loaded.points] == [0, 0, 0, 1, 1, 1]
    second = loaded.points[1]
    assert [(part.stage, part.varies) for part in second.parts] == [
        ("eval.1", {"dataset.limit": 3, "seed": 0}), ("eval.2", {"dataset.limit": 4, "seed": 0}),
    ]  # fmt: skip
    assert [s.dataset.limit for s in second.experiment.stages] == [3, 4]
    assert second.provenance["stages.eval.2.dataset.limit"] == "r.yaml:5:41"
    assert recipes.load(EVAL.replace("pack: 2", "pack: 9")).swept


def test_a_single_point_cannot_be_packed(recipes: Recipes) -> None:
    (line,) = recipes.lines(EVAL.replace("[1, 2, 3, 4, 5]", "[1]"))
    assert "sweep.pack: does nothing: there is one point" in line


def test_a_training_cannot_be_packed(recipes: Recipes) -> None:
    (line,) = recipes.lines(TWO + "sweep: {grid: {train.lr: [1e-4, 1e-5]}, pack: 2}\n")
    assert "sweep.pack: only sweeps of a single evaluation can be packed" in line


WRONG = [
    ("{list: [{train.lr: 1e-4}, {train.lr: 1e-4}]}", "this point is listed twice"),
    ("{list: [{seed: 1}]}", "a sweep cannot vary seed"),
    (
        "{list: [{train.lr: 1e-4}], grid: {train.lr: [1e-5]}}",
        "sweep: train.lr: the sweep varies this key twice",
    ),
    ("{list: [{train.speed: 1}]}", "train.speed"),
    ("{list: []}", "sweep.list"),
    ("{random: {count: 3, space: {train.clip: [0, 1]}}}", "3 different points cannot be drawn"),
    ("{random: {count: 3, space: {train.lr: {low: 1, high: 0.1}}}}", "low (1) is not below high (0.1)"),
    ("{random: {count: 3, space: {train.lr: {low: 0, high: 1, log: true}}}}", "log needs a low above 0"),
    ("{random: {count: 0, space: {train.lr: [1e-4]}}}", "sweep.random.count"),
    ("{random: {count: 2}}", "sweep.random.space: missing"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[t for t, _ in WRONG])
def test_bad_points_are_refused(recipes: Recipes, text: str, expected: str) -> None:
    lines = recipes.lines(f"{SFT}sweep: {text}\n")
    assert any(expected in line for line in lines), lines


LOSING = "validation: gsm8k\ntrain: {eval_every: 2, stop_losing: {metric: loss}}\n"


def test_stopping_losing_points_needs_points(recipes: Recipes) -> None:
    (line,) = recipes.lines(SFT + LOSING)
    assert "stages.sft.train.stop_losing: train.stop_losing does nothing without other points" in line
    points = recipes.load(SFT + LOSING + "sweep: {grid: {train.lr: [1e-4, 1e-5]}}\n").points
    assert len(points) == 2
    for point in points:  # as the worker reads it
        assert Experiment.model_validate(point.experiment.dump()) == point.experiment


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("{stop_losing: {metric: loss}}", "stop_losing needs eval_every"),
        ("{eval_every: 2, stop_losing: {metric: los}}", "'los' is not a validation metric of sft"),
        (
            "{eval_every: 2, stop_losing: {metric: loss, points: 3}}",
            "points does nothing with pruner: halving",
        ),
        ("{eval_every: 2, stop_losing: {metric: loss, pruner: luck}}", "expected one of halving, median"),
    ],
)
def test_how_losing_points_are_stopped_is_checked(recipes: Recipes, said: str, expected: str) -> None:
    text = f"{SFT}validation: gsm8k\ntrain: {said}\nsweep: {{grid: {{train.lr: [1e-4, 1e-5]}}}}\n"
    lines = recipes.lines(text)
    assert any(expected in line for line in lines), lines
