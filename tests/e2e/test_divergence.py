"""Trees of answers, a data set of their branches, a divergence model, and a search that asks it: one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Cli

pytestmark = pytest.mark.heavy
RECIPE = Path(__file__).parents[2] / "recipes" / "tiny-divergence.yaml"
SHORT = {
    "stages.sft.train.steps": 80,
    "stages.collect.dataset.limit": 80,
    "stages.judge.train.epochs": 1,
    "stages.judge.train.batch": 32,
    "stages.judge.train.micro_batch": 32,
    "stages.search.dataset.limit": 8,
}


def test_a_divergence_model_from_nothing_to_a_search(cli: Cli) -> None:
    options = [part for key, value in SHORT.items() for part in ("--set", f"{key}={value}")]
    done = cli("submit", str(RECIPE), "--wait", *options)
    run = next(cli.runs.glob("tiny-divergence-*"))
    stages = {p.name: p for p in run.glob("jobs/*/stages/*")}
    result = {name: json.loads((p / "result.json").read_text()) for name, p in stages.items()}

    pairs = result["collect"]["pairs"]
    rows = [json.loads(line) for line in (stages["collect"] / "dataset.jsonl").read_text().splitlines()]
    assert len(rows) == pairs["rows"] == sum(pairs["kept"].values()) > 50
    assert {r["label"] for r in rows} <= {0.0, 0.5, 1.0}
    _belong(stages["collect"], rows)

    held_out, measured = result["judge"]["held_out"], result["measure"]
    assert held_out["rows"] < len(rows)
    for key in ("rows", "auroc", "average_precision", "ece"):  # the same rows, asked of the model as exported
        assert measured[key] == pytest.approx(held_out[key]), key
    assert result["search"]["tree"]["rows"] > 1
    assert "AUROC" in done.out


def _belong(stage: Path, rows: list[dict[str, object]]) -> None:
    """Every row is a piece of two answers of its problem, where one left the other."""
    samples: dict[str, dict[int, dict[str, object]]] = {}
    for line in (stage / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        samples.setdefault(row["id"], {})[row["index"]] = row
    for row in rows:
        child = samples[str(row["problem"])][int(str(row["index"]))]
        at, parent = child["branch"]["at"], samples[str(row["problem"])][child["branch"]["parent"]]  # type: ignore[index]
        ends = sorted(each["text"][at:] for each in (child, parent))  # type: ignore[index]
        parts = sorted(str(row[key]) for key in ("one", "other"))
        assert all(end.startswith(part) and len(part) > 1 for end, part in zip(ends, parts, strict=True))
        same = child["extracted"] == parent["extracted"]
        assert (row["label"] == 1.0) or not same
