"""Real input: SmolLM2-135M on real GSM8K, small numbers of steps and problems, through `latentctl submit`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e import smollm2
from tests.e2e.conftest import REPO, Cli

pytestmark = [pytest.mark.heavy, pytest.mark.slow]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = smollm2.available()
    if missing:
        pytest.skip(missing)
    return smollm2.convert(tmp_path_factory.mktemp("smollm2"))


def test_smollm2_is_tuned_and_evaluated_on_gsm8k(cli: Cli, model: Path, real_data: Path) -> None:
    done = cli(
        "submit", str(REPO / "recipes" / "smollm2-gsm8k.yaml"), "--wait",
        "--set", f"model={model}", *small(real_data), timeout=900,
    )  # fmt: skip
    assert "ACCURACY" in done.out
    run = cli.run_dir("smollm2-gsm8k-")
    results: dict[str, dict] = {}
    for path in run.glob("jobs/*/result.json"):
        results |= json.loads(path.read_text())["stages"]
    trained = next(r for r in results.values() if r["method"] == "sft")
    scored = next(r for r in results.values() if r["method"] == "eval")
    assert trained["steps"] == 3
    assert trained["loss"] < 3
    assert scored["n"] == 4
    assert scored["graded_errors"] == 0


def small(data: Path) -> list[str]:
    """Three steps of eight rows, four problems."""
    said = [
        f"dataset.path={data / 'gsm8k'}", "stages.sft.dataset.limit=64", "stages.sft.train.steps=3",
        "stages.eval.dataset.limit=4", "stages.eval.sampling.max_new_tokens=48",
    ]  # fmt: skip
    return [word for key in said for word in ("--set", key)]
