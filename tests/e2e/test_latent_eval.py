"""Latent steps from a recipe to a page: one tiny curriculum, and what every later command says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Cli, make_cli

pytestmark = pytest.mark.heavy
RECIPE = """\
name: latent
model: {init: {arch: llama, hidden: 32, layers: 1, heads: 2, max_len: 256}, tokenizer: {kind: word}}
dataset: {name: shell-game, limit: 64, options: {cups: 4, swaps: 3}}
prompt: {template: plain, form: coconut}
train: {lr: 1e-3, batch: 16, micro_batch: 16}
sampling: {max_new_tokens: 24}
eval: {engine: transformers}
stages:
  - method: coconut
    latent: {input: hidden}
    coconut:
      latents_per_step: 1
      max_stage: 1
      optimizer_steps: 3
      eval_each: {dataset: {limit: 6}}
"""
CALIBRATE = """\
name: thresholds
model: {init: {arch: llama, hidden: 32, layers: 1, heads: 2, max_len: 256}, tokenizer: {kind: word}}
dataset: {name: shell-game, split: test, limit: 64, options: {cups: 4, swaps: 3}}
prompt: {template: plain, form: coconut}
latent: {input: soft, markers: coconut, stop: 3}
sampling: {max_new_tokens: 24}
eval: {engine: transformers}
method: eval
"""
PROBLEMS = ("--dataset", "shell-game", "--limit", "6", "--set", "dataset.options.cups=4",
            "--set", "dataset.options.swaps=3", "--set", "sampling.max_new_tokens=24",
            "--set", "eval.engine=transformers")  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    cli = make_cli(tmp_path_factory.mktemp("latent"))
    cli("submit", cli.recipe(RECIPE, "latent.yaml"), "--wait", timeout=240)
    return cli


def results(run: Path) -> dict[str, Any]:
    found = (json.loads(p.read_text()) for p in run.glob("jobs/*/result.json"))
    return {name: numbers for result in found for name, numbers in result["stages"].items()}


def lines(run: Path, stage: str, name: str) -> list[dict[str, Any]]:
    (file,) = run.glob(f"jobs/*/stages/{stage}/{name}.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_curriculum_stage_is_evaluated_with_its_own_latent_steps(trained: Cli) -> None:
    run = trained.run_dir("latent-")
    found = results(run)
    assert [name for name in found if name.endswith("-eval")] == [f"coconut.{n}-eval" for n in range(3)]
    hashes = {found[f"coconut.{n}-eval"]["data_hash"] for n in range(3)}
    assert len(hashes) == 1
    for stage, latents in ((1, 1), (2, 1)):
        numbers = found[f"coconut.{stage}-eval"]
        assert numbers["n"] == 6
        assert numbers["latents_mean"] == latents
        assert numbers["latent_causes"] == {"fixed": 6}
        assert numbers["positions_mean"] == pytest.approx(numbers["tokens_mean"] + latents)
        assert numbers["latent"]["input"] == {"kind": "hidden"}
        assert numbers["latent"]["start"] == "prompt"
        assert numbers["sampling"]["max_new_tokens"] == 24
        assert numbers["latent_overrides"] is None
        rows, traces = (lines(run, f"coconut.{stage}-eval", name) for name in ("samples", "traces"))
        assert [r["id"] for r in rows] == [t["id"] for t in traces]
        assert all(r["latents"] == latents and "<|" not in r["text"] for r in rows)
        for trace in traces:
            assert trace["input"] == "hidden"
            assert len(trace["steps"]) == latents
            for step in trace["steps"]:
                weights = [w for _, w in step["tokens"]]
                assert weights == sorted(weights, reverse=True)
                assert 0 < sum(weights) <= 1 + 1e-5
                assert step["entropy"] > 0


def test_a_checkpoint_is_evaluated_otherwise_than_it_was_trained(trained: Cli) -> None:
    run = trained.run_dir("latent-")
    asked = {
        "more": ("coconut.1", ("--latents", "2")),
        "soft": ("coconut", ("--set", "latent.input=soft", "--set", "latent.stop=4")),
    }
    numbers = {}
    for name, (stage, options) in asked.items():
        source = f"{run.name}/{stage}"
        done = trained("eval", "--checkpoint", source, *PROBLEMS, *options, "--name", f"as-{name}", "--wait")
        assert "ACCURACY" in done.out, done
        numbers[name] = results(trained.run_dir(f"as-{name}-"))["eval"]
    more, soft = numbers["more"], numbers["soft"]
    assert (more["latents_mean"], soft["latents_mean"]) == (2, 4)
    assert "coconut.2" in soft["source"], "the name of the chain means its last stage"
    assert more["latent_overrides"] is None, "a count is the evaluation's own choice"
    assert set(soft["latent_overrides"]) == {"input"}
    same = results(run)["coconut.2-eval"]
    for key in ("data_hash", "prompt_hash"):
        assert more[key] == soft[key] == same[key]
    beside = trained("compare", f"{run.name}/coconut.2-eval", trained.run_dir("as-soft-").name)
    assert "as-soft" in beside.out, beside


def test_case_shows_each_latent_step_and_writes_a_page(trained: Cli) -> None:
    run = trained.run_dir("latent-").name
    shown = trained("case", run)
    for word in (f"{run}/coconut.2-eval", "question", "gold", "hidden"):
        assert word in shown.out, shown
    assert max(map(len, shown.out.splitlines())) <= 80
    trained("case", f"{run}/coconut.1-eval", "--html", "page.html")
    page = (trained.folder / "page.html").read_text()
    assert "<html" in page
    assert "coconut.1-eval" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_compare_and_report_set_the_stages_side_by_side(trained: Cli) -> None:
    run = trained.run_dir("latent-").name
    compared = trained("compare", f"{run}/coconut.0-eval", f"{run}/coconut.2-eval")
    for word in ("coconut.0-eval", "coconut.2-eval"):
        assert word in compared.out, compared
    told = trained("report", run, "--markdown")
    rows = [line for line in told.out.splitlines() if line.startswith("|")]
    assert sum("-eval" in row for row in rows) == 3, told


def test_a_checkpoint_is_calibrated(trained: Cli) -> None:
    run = trained.run_dir("latent-").name
    recipe = trained.recipe(CALIBRATE, "thresholds.yaml")
    done = trained(
        "calibrate", recipe, "--checkpoint", f"{run}/coconut.1", "--target-ratio", "0.2", "--limit", "6"
    )
    for word in ("THRESHOLD", "entropy of latent steps", "20.0 % lie above", "18 steps of 6 problems"):
        assert word in done.out, done
    (file,) = trained.run_dir("calibrate-thresholds-").glob("jobs/*/stages/*/calibration.json")
    found = json.loads(file.read_text())
    assert (found["steps"], found["problems"], found["target"]["ratio"]) == (18, 6, 0.2)
    low, high = found["target"]["ci"]
    assert low <= found["target"]["threshold"] <= high
