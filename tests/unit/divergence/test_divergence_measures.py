"""The measures of a divergence model against plain counting."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from jobs.methods.divergence import measures


def drawn(seed: int, count: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = random.Random(seed)
    scores = [rng.choice([0.1, 0.4, 0.4, 0.9]) if ties else rng.random() for _ in range(count)]
    same = [rng.random() < 0.3 + 0.5 * s for s in scores]
    return np.array(scores), np.array(same)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_the_share_of_pairs_in_order(seed: int, ties: bool) -> None:
    scores, same = drawn(seed, 40, ties=ties)
    won = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a in scores[same].tolist()
        for b in scores[~same].tolist()
    ]
    assert measures.auroc(scores, same) == pytest.approx(sum(won) / len(won))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_walks_down_the_list_once(seed: int, ties: bool) -> None:
    scores, same = drawn(seed, 40, ties=ties)
    total, before = 0.0, 0.0
    for value in sorted(set(scores.tolist())):
        taken = [not s for v, s in zip(scores.tolist(), same.tolist(), strict=True) if v <= value]
        recall = sum(taken) / int((~same).sum())
        total += sum(taken) / len(taken) * (recall - before)
        before = recall
    assert measures.average_precision(scores, same) == pytest.approx(total)


def test_a_perfect_model_and_one_that_is_the_wrong_way_round() -> None:
    scores, same = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    assert (measures.auroc(scores, same), measures.average_precision(scores, same)) == (1.0, 1.0)
    assert measures.auroc(1 - scores, same) == 0.0
    assert measures.at_threshold(scores, same, 0.5) == {
        "threshold": 0.5, "branches": 0.5, "precision": 1.0, "recall": 1.0,
    }  # fmt: skip


def test_calibration_is_the_mean_gap_of_the_bins() -> None:
    scores = np.array([0.05, 0.05, 0.95, 1.0])
    labels = np.array([0.0, 1.0, 1.0, 1.0])
    error, bins = measures.calibration(scores, labels)
    assert error == pytest.approx(0.5 * 0.45 + 0.5 * 0.025)
    assert [b["rows"] for b in bins] == [2, 2]


def test_halfway_labels_are_on_no_side() -> None:
    told = measures.evaluation([0.2, 0.5, 0.9], [0.0, 0.5, 1.0], ["a", "b", "c"])
    assert (told["rows"], told["same"], told["equal"], told["other"]) == (3, 1, 1, 1)
    assert told["auroc"] == 1.0
    assert told["chance_precision"] == 0.5
    assert told["ece"] == pytest.approx(0.1)


def test_what_one_label_cannot_tell_is_said_not_guessed() -> None:
    told = measures.evaluation([0.2, 0.3], [1.0, 1.0], ["a", "b"])
    assert told["auroc"] is None
    assert told["auroc_ci"] is None
    assert "unknown" in measures.table(told)


def test_the_interval_is_over_problems_not_rows() -> None:
    """The same row a hundred times is one observation."""
    rng = random.Random(0)
    rows = [(rng.random() * 0.7 + 0.3 * (y := rng.random() < 0.5), float(y), f"p{i}") for i in range(30)]
    once = measures.evaluation(*zip(*rows, strict=True))
    often = measures.evaluation(*zip(*[r for r in rows for _ in range(20)], strict=True))
    width = lambda told: told["auroc_ci"][1] - told["auroc_ci"][0]  # noqa: E731
    assert math.isclose(width(once), width(often), rel_tol=1e-6)


def test_the_table_fits_a_terminal() -> None:
    told = measures.evaluation([0.2, 0.5, 0.9] * 1000, [0.0, 0.5, 1.0] * 1000, ["a", "b", "c"] * 1000)
    assert max(map(len, measures.table(told).splitlines())) <= 80
