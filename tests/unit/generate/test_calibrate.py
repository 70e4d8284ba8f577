"""Entropy thresholds: exact quantiles, intervals over problems, and the stage that measures them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_harness import tiny
from eval_stage import context, experiment
from scripted_engine import ScriptedEngine, scripted

from jobs.generate.make import make_engine
from jobs.generate.score import entropies
from jobs.grade import samples
from jobs.methods import thresholds
from jobs.methods.asking import Asking
from jobs.methods.calibrate import Calibrate, measured_on
from jobs.runtime.errors import JobUserError
from latentctl.errors import UserError
from latentctl.record.calibration import read_calibration
from latentctl.spec.latent import LatentSpec

pytestmark = pytest.mark.heavy


def measured(problems: int = 40, seed: int = 0, spread: float = 0.5) -> list[np.ndarray]:
    """Problems of different lengths and levels: their steps are alike."""
    rng = np.random.default_rng(seed)
    return [np.abs(rng.normal(rng.gamma(2, spread), 0.2, size=rng.integers(1, 60))) for _ in range(problems)]


def test_the_share_above_a_threshold_is_counted_and_falls() -> None:
    found = measured()
    pooled = np.concatenate(found)
    rows = thresholds.shares(found, [0.1, 0.5, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0])
    for row in rows:
        assert row.share == pytest.approx((pooled > row.threshold).mean(), abs=1e-12)
        assert row.ci[0] <= row.share <= row.ci[1]
    assert all(a.share >= b.share for a, b in pairwise(rows))
    assert all(a.ci[0] >= b.ci[0] and a.ci[1] >= b.ci[1] for a, b in pairwise(rows))


def test_a_step_on_the_threshold_is_not_above_it() -> None:
    assert thresholds.shares([np.array([0.5, 0.5, 1.0, 2.0])], [0.5])[0].share == 0.5


@pytest.mark.parametrize("ratio", [0.01, 0.05, 0.1, 0.25, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("problems", [1, 3, 40])
def test_the_threshold_of_a_share_is_the_exact_quantile(ratio: float, problems: int) -> None:
    found = measured(problems, seed=problems)
    pooled = np.concatenate(found)
    threshold = thresholds.target(found, ratio).threshold
    assert threshold == np.quantile(pooled, 1 - ratio, method="inverted_cdf")
    assert (pooled > threshold).mean() <= ratio
    smaller = pooled[pooled < threshold]
    assert not len(smaller) or (pooled > smaller.max()).mean() > ratio


def test_known_entropies_give_the_threshold_by_hand() -> None:
    hundred = [np.arange(1, 51) / 100, np.arange(51, 101) / 100]
    assert thresholds.target(hundred, 0.05).threshold == 0.95
    assert thresholds.target([np.array([1.0, 1.0, 1.0])], 0.05).threshold == 1.0


def test_intervals_are_over_problems_not_over_steps() -> None:
    """Ten problems that are all high or all low: a thousand steps know no more than ten problems."""
    found = [np.full(100, 2.0 if i < 3 else 0.1) for i in range(10)]
    (row,) = thresholds.shares(found, [1.0])
    steps_alone = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    of_problems = 1.96 * np.sqrt(0.3 * 0.7 / 10)
    width = (row.ci[1] - row.ci[0]) / 2
    assert width > 5 * steps_alone
    assert width == pytest.approx(of_problems, rel=0.2)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Coverage of share and threshold over 200 draws of 40 problems, against a very large sample."""
    truth = np.concatenate(measured(20_000, seed=10**6))
    share = (truth > 1.0).mean()
    threshold = np.quantile(truth, 0.9)
    hits = np.zeros(2)
    for seed in range(200):
        found = measured(40, seed)
        (row,) = thresholds.shares(found, [1.0])
        target = thresholds.target(found, 0.1)
        hits += [row.ci[0] <= share <= row.ci[1], target.ci[0] <= threshold <= target.ci[1]]
        assert target.ci[0] <= target.threshold <= target.ci[1]
    assert (hits / 200 > 0.87).all(), hits / 200
    assert (hits / 200 < 0.995).all(), hits / 200


def test_where_all_problems_agree_the_interval_still_has_a_width() -> None:
    found = [np.array([0.1, 0.2])] * 5
    low, high = thresholds.shares(found, [1.0])[0].ci
    assert low == 0
    assert 0.3 < high < 0.6, "Wilson's for 0 of 5"
    assert thresholds.shares([np.array([0.1, 2.0])], [1.0])[0].ci[1] > 0.8, "one problem tells little"


def test_the_same_entropies_give_the_same_intervals() -> None:
    assert thresholds.shares(measured(), [0.5]) == thresholds.shares(measured(), [0.5])


def calibration(latent: dict[str, Any] | None, **settings: Any) -> Any:
    return experiment(
        name="cal",
        method="calibrate",
        latent=latent,
        eval=None,
        model={"init": {"arch": "gpt2", "hidden": 32, "heads": 4, "max_len": 512},
               "tokenizer": {"kind": "byte"}},
        prompt={"form": "coconut"},
        sampling={"max_new_tokens": 24},
        calibrate={"thresholds": [0.5, 1.0, 2.0], "target_ratio": 0.25, "max_batch": 5, **settings},
    )  # fmt: skip


LATENT = {"input": {"kind": "soft", "temperature": 0.6}, "markers": "think", "stop": 4}


def test_latent_steps_become_a_calibration_that_others_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = scripted(monkeypatch, entropy=lambda r, step: int(r.id.rpartition("-")[2]) / 10 + step / 2)
    ctx = context(tmp_path, calibration(LATENT))
    result = Calibrate(ctx).run()
    assert {r.thoughts.trace for r in engines[0].asked if r.thoughts} == {0}
    found = read_calibration(ctx.paths.calibration)
    pooled = [int(r.id.rpartition("-")[2]) / 10 + step / 2 for r in engines[0].asked for step in range(4)]
    assert (found.steps, found.problems) == (48, 12)
    assert [r.threshold for r in found.rows] == [0.5, 1.0, 2.0]
    for row in found.rows:
        assert row.share == pytest.approx(np.mean(np.array(pooled).round(6) > row.threshold))
    assert found.threshold(0.25) == pytest.approx(np.quantile(pooled, 0.75, method="inverted_cdf"))
    assert (found.on, found.temperature) == ("input", 0.6)
    assert found.latent is not None
    assert found.latent["stop"]["fixed"] == 4
    assert json.loads(json.dumps(result["calibration"])) == json.loads(ctx.paths.calibration.read_text())
    assert "accuracy" not in result
    json.dumps(result, allow_nan=False)
    with pytest.raises(UserError, match=r"found one for the ratio 0\.25"):
        found.threshold(0.05)


def test_a_calibration_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = scripted(monkeypatch)
    exp = calibration(LATENT)
    whole = context(tmp_path / "whole", exp)
    Calibrate(whole).run()
    part = whole.paths.rank_samples(0)
    cut = context(tmp_path / "cut", exp)
    kept = cut.paths.rank_samples(0)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:5]) + b'{"id": "to')
    Calibrate(cut).run()
    assert len(engines[-1].asked) == 7
    assert cut.paths.calibration.read_text() == whole.paths.calibration.read_text()


def test_text_alone_is_measured_on_the_tokens_of_its_reasoning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the logits of each token's own prefix, one forward each."""
    engines: list[Any] = []
    monkeypatch.setattr(
        "jobs.methods.sharing.make_engine", lambda *a, **k: engines.append(make_engine(*a, **k)) or engines[0]
    )
    puts: list[Any] = []
    put = Asking.put
    monkeypatch.setattr(Asking, "put", lambda *a: puts.append(put(*a)) or puts[0])
    ctx = context(tmp_path, calibration(None))
    Calibrate(ctx).run()
    found = read_calibration(ctx.paths.calibration)
    assert (found.on, found.temperature, found.latent) == ("text", 1.0, None)
    rows = list(samples.read_parts(ctx.paths.rank_samples(0).parent))
    (questions,), (engine,) = puts, engines
    again = {s.id: s for s in engine.generate([questions.request(i, 0) for i in range(3)])}
    model = engine.runner.model
    for place in range(3):
        row = next(r for r in rows if r["id"] == questions.examples[place].id)
        prompt = questions.prompts[place][1]
        ids = prompt + again[row["id"]].ids
        with torch.no_grad():
            logits = [model(torch.tensor([ids[:i]])).logits[0, -1] for i in range(len(prompt), len(ids))]
        naive = [torch.distributions.Categorical(logits=x).entropy().item() for x in logits]
        assert row["entropies"] == pytest.approx(naive, abs=1e-4)
        assert len(naive) == 24


def test_entropies_of_a_batch_are_those_of_each_alone() -> None:
    model = tiny("llama")
    items = [([1, 2, 3], [4, 5]), ([7], [8, 9, 10]), ([1, 2], [])]
    together = list(entropies(model, items, max_batch=3, max_batch_tokens=64))
    alone = [x for item in items for x in entropies(model, [item], max_batch=1, max_batch_tokens=64)]
    assert [len(x) for x in together] == [2, 3, 0]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    with pytest.raises(ValueError, match="empty prompt"):
        list(entropies(model, [([], [1])], max_batch=1, max_batch_tokens=64))


def test_only_the_reasoning_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, answer=lambda r: "1+1\n### 2")
    monkeypatch.setattr(
        ScriptedEngine, "entropies", lambda self, items: [[0.1] * len(ids) for _, ids in items], raising=False
    )
    ctx = context(tmp_path, calibration(None))
    Calibrate(ctx).run()
    rows = samples.read_parts(ctx.paths.rank_samples(0).parent)
    assert {len(r["entropies"]) for r in rows} == {len("1+1\n")}


def test_nothing_to_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    with pytest.raises(JobUserError, match="no latent step was taken"):
        Calibrate(context(tmp_path, calibration({**LATENT, "stop": 0}))).run()
    assert not list(tmp_path.rglob("calibration.json"))


@pytest.mark.parametrize(
    ("entropy", "whose"),
    [
        (None, ("input", 0.6)),
        ({"threshold": 1.0}, ("input", 0.6)),
        ({"threshold": 1.0, "on": "model"}, ("model", 1.0)),
    ],
)
def test_the_distribution_is_the_one_that_the_stop_rule_looks_at(
    entropy: dict[str, Any] | None, whose: tuple[str, float]
) -> None:
    stop = {"max_len": 4, "entropy": entropy}
    assert measured_on(LatentSpec.model_validate({**LATENT, "stop": stop})) == whose


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "damaged"),
        ('{"version": 2}', "reads version 1"),
        ('{"version": 1}', "damaged"),
        ("[]", "damaged"),
    ],
)
def test_a_damaged_calibration_is_told_in_words(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(UserError, match=words):
        read_calibration(tmp_path / "calibration.json")
    with pytest.raises(UserError, match="no calibration to read"):
        read_calibration(tmp_path / "other.json")
