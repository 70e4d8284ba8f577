"""Coconut's stage rule against tables written down from the method's description, and its draws."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.data.curriculum import Curriculum, Cut, difficulty_counts, normal_ranks
from jobs.generate.thoughts import count
from latentctl.spec.methods import CoconutSettings, DifficultySpec

GOLDEN = Path(__file__).parent / "golden"
TABLES: dict[str, dict[str, Any]] = {
    "coconut_c2_max3": {"latents_per_step": 2, "max_stage": 3},
    "coconut_c2_max3_pad": {"latents_per_step": 2, "max_stage": 3, "pad_latent_to_max": True},
    "coconut_c1_max6": {"latents_per_step": 1, "max_stage": 6},
    "per_example_c2_keep": {"latents_per_step": 2, "max_stage": 3, "count": "per_example"},
    "per_example_c2_truncate": {
        "latents_per_step": 2,
        "max_stage": 3,
        "count": "per_example",
        "overflow": "truncate",
    },
}


def curriculum(stage: int | None = None, **said: Any) -> Curriculum:
    return Curriculum(CoconutSettings(stage=stage, **said))


def table(name: str) -> dict[tuple[str, int, int], str]:
    """(train or eval, stage, steps) -> cell."""
    lines = [line for line in (GOLDEN / f"{name}.txt").read_text().splitlines() if line[0] != "#"]
    head = [int(n) for n in lines[0].split()[1:]]
    found = {}
    for line in lines[1:]:
        kind, stage, *cells = line.split()
        found |= {(kind, int(stage), n): cell for n, cell in zip(head, cells, strict=True)}
    return found


@pytest.mark.parametrize("name", TABLES)
def test_stages_as_written_down(name: str) -> None:
    cells = table(name)
    assert len(cells) >= 2 * 5 * 9
    for (kind, stage, steps), cell in cells.items():
        rule = curriculum(stage, **TABLES[name])
        where = f"{name}: {kind}, stage {stage}, {steps} steps"
        if kind == "train":
            cut = rule.train(steps)
            assert f"{cut.latents}+{len(cut.text)}" == cell, where
        else:
            stop = rule.evaluate()
            assert stop is not None
            assert count(stop, steps) == int(cell), where


def test_the_first_steps_are_replaced_and_the_last_stay() -> None:
    assert curriculum(2).train(5).text == range(2, 5)
    assert curriculum(2, variant="no_thoughts").train(5) == Cut(0, range(2, 5))
    assert curriculum(4, variant="no_thoughts").train(5) == Cut(0, range(0))


def test_variants_without_latent_steps() -> None:
    assert curriculum(3, variant="cot").train(5) == Cut(0, range(5))
    assert curriculum(3, variant="no_cot").train(5) == Cut(0, range(0))
    assert [curriculum(1, variant=v).latent for v in ("coconut", "no_thoughts", "cot", "no_cot")] == [
        True,
        False,
        False,
        False,
    ]


def test_without_a_curriculum_the_last_stage_is_trained() -> None:
    assert curriculum(curriculum=False, max_stage=3).stage == 4
    assert curriculum(curriculum=False, max_stage=3).train(5) == Cut(6, range(0))
    assert curriculum().stage == 0


def test_a_model_that_decides_is_stopped_only_far_out() -> None:
    stop = curriculum(2, dynamic=True).evaluate()
    assert stop is not None
    assert (stop.end_marker, stop.max_len, stop.fixed, stop.per_step) == (True, 8, None, None)
    by_difficulty = curriculum(dynamic=True, count="difficulty", difficulty={"max": 10}).evaluate()
    assert by_difficulty is not None
    assert by_difficulty.max_len == 20
    assert curriculum(count="difficulty", difficulty={}).evaluate() is None


def test_uniform_draws_depend_on_place_and_seed_alone() -> None:
    rule = curriculum(2, uniform_prob=0.4)
    drawn = [rule.draw(4, place=p, seed=7) for p in range(4000)]
    assert drawn == [rule.draw(4, place=p, seed=7) for p in range(4000)]
    assert drawn != [rule.draw(4, place=p, seed=8) for p in range(4000)]
    seen = Counter(drawn)
    for stage in range(5):  # 60 % of stage 2, and 8 % of each; five standard deviations are 2.2 and 3.9 %
        expected = 0.08 + 0.6 * (stage == 2)
        assert seen[stage] / 4000 == pytest.approx(expected, abs=0.04)
    assert {curriculum(2).draw(4, place=p, seed=7) for p in range(50)} == {2}


def test_only_problems_that_are_long_enough_and_some_others() -> None:
    steps = [1, 5, 2, 6, 3, 1, 2, 8]
    assert curriculum(3).select(steps, seed=0) == list(range(8))
    assert curriculum(3, data_mixing_ratio=0).select(steps, seed=0) == [1, 3, 4, 7]
    mixed = curriculum(3, data_mixing_ratio=0.5).select(steps, seed=0)
    assert len(mixed) == 6
    assert set(mixed) > {1, 3, 4, 7}
    assert mixed == curriculum(3, data_mixing_ratio=0.5).select(steps, seed=0)
    others = {tuple(curriculum(3, data_mixing_ratio=0.5).select(steps, seed=s)) for s in range(20)}
    assert len(others) > 1, "another seed, other short problems"
    assert curriculum(3, data_mixing_ratio=9).select(steps, seed=0) == list(range(8))
    assert curriculum(4, data_mixing_ratio=1).select([1, 3], seed=0) == []


def test_counts_by_difficulty() -> None:
    spec = DifficultySpec(min=1, max=10)
    assert difficulty_counts(spec, [0.0, 0.1, 0.5, 0.95, 1.0]) == [1, 2, 5, 10, 10]
    assert difficulty_counts(DifficultySpec(min=0, max=4, divide_by=10), [0, 5, 10]) == [0, 2, 4]
    with pytest.raises(ValueError, match=r"difficulty of 5 .* 0 to 1"):
        difficulty_counts(spec, [5.0])
    # by steps: ranks 0.5 (a tie of two), 2, 3 of four -> quantiles 1/4, 5/8, 7/8
    ranked = difficulty_counts(DifficultySpec(min=0, max=100, field="steps"), [2, 2, 3, 9])
    assert ranked == [33, 33, 58, 79]
    assert difficulty_counts(DifficultySpec(min=0, max=100, normal=True, divide_by=2), [2, 2, 3, 9]) == [
        17,
        17,
        29,
        39,
    ]


def test_normal_ranks_by_tables_of_the_normal_distribution() -> None:
    """Quantiles 1/6, 1/2, 5/6 lie 0.9674 deviations from the mean."""
    assert normal_ranks([10, -3, 4]) == pytest.approx(
        [0.5 + 0.25 * 0.96742, 0.5 - 0.25 * 0.96742, 0.5], abs=1e-5
    )
    assert normal_ranks([1, 1, 1]) == pytest.approx([0.5] * 3)
    many = normal_ranks(list(range(1000)))
    assert min(many) == 0.0, "cut to 0 .. 1"
    assert max(many) == 1.0
    assert many == sorted(many)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"pad_latent_to_max": True, "count": "per_example"},
            "pad_latent_to_max belongs to count: scheduled",
        ),
        ({"overflow": "truncate"}, "overflow belongs to count: per_example"),
        ({"uniform_prob": 0.3, "variant": "cot"}, "uniform_prob belongs to a curriculum"),
        (
            {"uniform_prob": 0.3, "count": "difficulty", "difficulty": {}},
            "uniform_prob belongs to a curriculum",
        ),
        ({"dynamic": True, "variant": "no_thoughts"}, "dynamic"),
        (
            {"count": "difficulty", "difficulty": {}, "variant": "no_cot"},
            "count: difficulty belongs to variant: coconut",
        ),
    ],
)
def test_settings_that_would_do_nothing_are_refused(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CoconutSettings(**said)
