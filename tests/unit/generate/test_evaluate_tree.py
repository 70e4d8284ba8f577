"""The eval method with a tree search: its rows, and a kill in the middle of a problem."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from eval_stage import context, experiment, killed_after

from jobs.grade import samples
from jobs.methods.evaluate import Evaluate

pytestmark = pytest.mark.heavy
TREE = {"min_prob": 0.0, "max_gap": None, "look_ahead": [4], "min_distance": 0.2, "sample": "full"}


def searched(**more: Any) -> Any:
    return experiment(
        eval={"max_batch": 8, "tree": TREE},
        sampling={"temperature": 1.0, "samples": 4, "max_new_tokens": 10},
        **more,
    )


def test_each_problem_has_its_rows_with_their_descent(tmp_path: Path) -> None:
    ctx = context(tmp_path, searched())
    result = Evaluate(ctx).run()
    rows = list(samples.read(ctx.paths.samples))
    assert (result["n"], result["k"], len(rows)) == (12, 4, 48)
    assert result["tree"]["rows"] + result["tree"]["doubles"] == 4
    assert result["tree"]["depth"] >= 1
    by_key = {samples.key(row): row for row in rows}
    left = 0
    for row in rows:
        branch = row["branch"]
        if branch["parent"] is None:
            continue
        parent = by_key[row["id"], branch["parent"]]
        left += 1
        at = branch["at"]
        assert row["text"][:at] == parent["text"][:at]
        assert row["text"][at:].startswith(branch["token"]) or branch["token"] == ""
        assert branch["duplicate"] or row["text"] != parent["text"]
    assert left > 12


@pytest.mark.parametrize("moment", [3, 10, 31])
def test_a_problem_that_was_cut_in_the_middle_is_searched_again_and_comes_out_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    exp = searched()
    whole = context(tmp_path / "whole", exp)
    Evaluate(whole).run()
    ctx = context(tmp_path / "cut", exp)
    with monkeypatch.context() as patch:
        killed_after(patch, moment)
        with pytest.raises(KeyboardInterrupt):
            Evaluate(ctx).run()
    part = ctx.paths.rank_samples(0)
    kept = Counter(row["id"] for row in samples.read_parts(part.parent))
    assert sum(kept.values()) == moment
    assert set(kept.values()) != {4}, "one problem was cut"
    Evaluate(context(tmp_path / "cut", exp, attempt=2)).run()
    assert ctx.paths.samples.read_text() == whole.paths.samples.read_text()
    again = len(part.read_bytes().splitlines())
    assert again == moment + 48 - 4 * sum(n == 4 for n in kept.values())
