"""Which points of a sweep a look at the cluster could tell apart, and whose a finding is."""

from __future__ import annotations

from typing import Any

import pytest

from latentctl.plan.kinds import kinds, merged
from latentctl.record.findings import Finding
from latentctl.spec.load import load_mapping

EVAL = {"name": "tiny", "model": {"init": {}}, "dataset": "gsm8k", "stages": ["eval"]}
SFT = {**EVAL, "stages": ["sft"]}
FITS = Finding("ok", "job sft", "fits")
TOO_MUCH = Finding("error", "job sft", "asks for 9 nodes")


def found(recipe: dict[str, Any], grid: dict[str, Any], **more: Any) -> list[tuple[str, int]]:
    points = load_mapping({**recipe, **more, "sweep": {"grid": grid}}).points
    return [(kind.name, kind.count) for kind in kinds(points)]


def test_what_changes_neither_place_nor_bytes_makes_no_kind() -> None:
    assert found(SFT, {"train.lr": [1e-3, 1e-4], "train.warmup": [0, 10]}, seeds=[0, 1]) == [("", 8)]


def test_kinds_are_named_by_what_tells_them_apart() -> None:
    grid = {"stages.sft.train.micro_batch": [2, 4], "train.lr": [1e-3, 1e-4], "resources.time": ["1h"]}
    tail = ", resources.time=1h"
    assert found(SFT, grid) == [(f"stages.sft.train.micro_batch={n}{tail}", 2) for n in (2, 4)]


def test_a_threshold_of_the_rule_that_ends_a_span_makes_no_kind() -> None:
    """Whatever the stage calls it: the key begins behind the stage's name."""
    latent = {"input": "soft", "markers": "think", "stop": {"entropy": {"threshold": 0.1}, "max_len": 8}}
    grid = {"stages.eval.latent.stop.entropy.threshold": [0.1, 0.2]}
    assert found(EVAL, grid, latent=latent) == [("", 2)]


def test_jobs_of_packed_points_are_told_apart_by_their_points() -> None:
    grid = {"eval.max_batch": [1, 2, 3, 4], "sampling.temperature": [0.9]}
    points = load_mapping({**EVAL, "sweep": {"grid": grid, "pack": 2}}).points
    names = [kind.name for kind in kinds(points)]
    assert names == ["eval.max_batch=1, eval.max_batch=2", "eval.max_batch=3, eval.max_batch=4"]


@pytest.mark.parametrize("names", [[""], ["a=1", "a=2", "a=3"]])
def test_what_all_share_is_said_once_and_of_nobody(names: list[str]) -> None:
    assert list(merged([(name, [FITS, TOO_MUCH]) for name in names])) == [FITS, TOO_MUCH]


def test_what_some_have_says_whose_it_is() -> None:
    said = list(merged([("a=1", [FITS]), ("a=2", [TOO_MUCH]), ("a=3", [FITS]), ("a=4", [TOO_MUCH])]))
    assert [f.where for f in said] == ["job sft (a=1 and 1 more)", "job sft (a=2 and 1 more)"]
    assert [f.level for f in said] == ["ok", "error"]
