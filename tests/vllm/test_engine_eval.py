"""Stages on the engine `vllm`: evaluated, killed and resumed, calibrated, and followed by training."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vllm is not installed")

from eval_stage import context, experiment, texts
from safetensors.torch import load_file, save_file
from tiny import model, tokenizer

from jobs.grade import samples
from jobs.methods.calibrate import Calibrate
from jobs.methods.evaluate import Evaluate
from jobs.methods.protocol import Preempted
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError
from latentctl.record.atomic import read_json
from latentctl.record.calibration import read_calibration
from latentctl.spec.experiment import Experiment

pytestmark = pytest.mark.heavy
FAMILY = "qwen3"
MODEL = {"init": {"arch": FAMILY, "hidden": 64, "heads": 2, "max_len": 256}}
LATENT = {"input": "hidden", "start": "prompt", "stop": 2, "markers": "think"}
GREEDY = {"max_new_tokens": 12}


def stage(**said: Any) -> Experiment:
    return experiment(**{"model": MODEL, **said})


def no_model(*_: Any, **__: Any) -> Any:
    pytest.fail("a model was loaded beside vLLM's")


def test_an_evaluation_killed_in_the_middle_goes_on_sample_by_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampled answers, an engine of its own for each attempt: as if nothing had happened."""
    exp = stage(eval={"engine": "vllm", "max_batch": 3})
    monkeypatch.setattr("jobs.methods.sharing.load_model", no_model)
    whole = context(tmp_path / "whole", exp)
    result = Evaluate(whole).run()
    assert len(texts(whole)) == 24
    assert (result["engine"], result["engine_info"]["runner"]) == ("vllm", "V1")
    assert result["tokens_per_s"] > 0
    assert not list(tmp_path.rglob("random-model-*"))

    cut = context(tmp_path / "cut", exp)
    add, written = samples.Appender.add, 0

    def add_some(self: Any, row: Any) -> None:
        nonlocal written
        add(self, row)
        written += 1
        if written == 7:
            cut.stop.request("USR2")

    with monkeypatch.context() as patch:
        patch.setattr(samples.Appender, "add", add_some)
        with pytest.raises(Preempted):
            Evaluate(cut).run()
    part = cut.paths.rank_samples(0)
    kept = part.read_bytes()
    assert 7 <= kept.count(b"\n") < 12
    part.write_bytes(kept + b'{"id": "shell-ga')
    again = context(tmp_path / "cut", exp, attempt=2)
    second = Evaluate(again).run()
    assert texts(again) == texts(whole)
    lines = [line for line in part.read_bytes().split(b"\n") if line.endswith(b"}")]
    assert len(lines) == 24, "no sample was generated twice"
    assert second["engine"] == "vllm"
    third = context(tmp_path / "cut", exp, attempt=3)
    assert Evaluate(third).run()["engine"] == "vllm", "also where nothing was left to generate"


def test_greedy_evaluations_of_both_engines_write_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text and latent steps, with their traces; `auto` is vLLM where it is there."""
    eager = {"model": {**MODEL, "attention": "eager"}}
    for name, said in (("text", eager), ("latent", {"latent": LATENT})):
        found = {}
        for engine in ("auto", "transformers"):
            exp = stage(sampling=GREEDY, eval={"engine": engine, "max_batch": 4, "trace_problems": 3}, **said)
            ctx = context(tmp_path / name / engine, exp)
            result = Evaluate(ctx).run()
            assert result["engine"] == ("vllm" if engine == "auto" else engine)
            noted = "model.attention (eager) is for transformers" in capsys.readouterr().err
            assert noted == (name == "text" and engine == "auto")
            rows = [r | {"logp_sum": round(r["logp_sum"], 2)} for r in samples.read(ctx.paths.samples)]
            traces = list(samples.read(ctx.paths.traces)) if name == "latent" else []
            found[engine] = rows, [(t["id"], t["spans"], t["cause"], len(t["steps"])) for t in traces]
        assert found["auto"] == found["transformers"]
    assert len(found["auto"][1]) == 3


def test_auto_says_why_it_takes_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = {**LATENT, "input": {"kind": "soft", "max_topk": None}}
    for name, said, words in (
        ("wide", {"latent": wide}, "max_topk: null mixes any number of tokens"),
        (
            "head",
            {"model": {"init": {"arch": "gpt2", "hidden": 32, "heads": 4}}},
            "heads of 8 are not among those",
        ),
    ):
        exp = stage(sampling=GREEDY, eval={"engine": "auto"}, **said)
        assert Evaluate(context(tmp_path / name, exp)).run()["engine"] == "transformers"
        lines = [line for line in capsys.readouterr().err.splitlines() if "engine: transformers" in line]
        assert len(lines) == 1
        assert words in lines[0]
    monkeypatch.setattr("jobs.generate.vllm_plugin.compat.problem", lambda: "it is not as it was")
    exp = stage(sampling=GREEDY, eval={"engine": "auto"})
    Evaluate(context(tmp_path / "other", exp)).run()
    assert "engine: transformers, because it is not as it was" in capsys.readouterr().err


def test_vllm_asked_for_by_name_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little memory for its cache, and a vLLM that is not as it was."""
    with monkeypatch.context() as patch:
        patch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)  # it would win
        patch.setattr("jobs.generate.vllm_args.cache_bytes", lambda *a: 1 << 50)
        with pytest.raises(JobUserError, match=r"vLLM does not start: .*memory"):
            Evaluate(context(tmp_path / "a", stage(eval={"engine": "vllm"}))).run()
        assert not distributed.joined()
        auto = stage(sampling=GREEDY, eval={"engine": "auto"})
        assert Evaluate(context(tmp_path / "auto", auto)).run()["engine"] == "transformers"
    monkeypatch.setattr("jobs.generate.vllm_plugin.compat.problem", lambda: "it is not as it was")
    with pytest.raises(JobUserError, match="it is not as it was") as error:
        Evaluate(context(tmp_path / "b", stage(eval={"engine": "vllm"}))).run()
    assert error.value.where == "eval.eval.engine"


def test_weights_that_are_not_all_there_are_refused(tmp_path: Path) -> None:
    """vLLM itself would go on with what it happens to find in memory."""
    model(FAMILY).save_pretrained(tmp_path / "m")
    tokenizer().save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    held = load_file(path)
    exp = stage(sampling=GREEDY, model={"path": str(tmp_path / "m")}, eval={"engine": "vllm"})
    assert Evaluate(context(tmp_path / "whole", exp, source=tmp_path / "m")).run()["engine"] == "vllm"
    held.pop("model.layers.1.mlp.up_proj.weight")
    save_file(held, path, metadata={"format": "pt"})
    with pytest.raises(JobUserError, match=r"lack 1 tensors of Qwen3ForCausalLM, such as model\.layers\.1"):
        Evaluate(context(tmp_path / "lacking", exp, source=tmp_path / "m")).run()


def calibration(engine: str, **said: Any) -> Experiment:
    settings = {"engine": engine, "target_ratio": 0.5}
    return stage(method="calibrate", eval=None, calibrate=settings, sampling=GREEDY, **said)


def test_calibrations_of_latent_steps_agree_and_those_of_text_are_not_vllms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for engine in ("vllm", "transformers"):
        ctx = context(tmp_path / engine, calibration(engine, latent=LATENT))
        assert Calibrate(ctx).run()["engine"] == engine
        found[engine] = read_calibration(ctx.paths.calibration)
    assert found["vllm"].steps == found["transformers"].steps == 24
    assert found["vllm"].target.threshold == pytest.approx(found["transformers"].target.threshold, abs=1e-4)
    assert Calibrate(context(tmp_path / "auto", calibration("auto"))).run()["engine"] == "transformers"
    assert "does not give the entropy of written tokens" in capsys.readouterr().err


def test_a_calibration_of_text_by_vllm_is_refused(tmp_path: Path) -> None:
    """The recipe's own check aside, which may not know what the checkpoint is."""
    ctx = context(tmp_path, calibration("auto"))
    asked = ctx.stage.settings.model_copy(update={"engine": "vllm"})
    ctx = replace(ctx, stage=ctx.stage.model_copy(update={"calibrate": asked}))
    with pytest.raises(JobUserError, match="entropy of written tokens") as error:
        Calibrate(ctx).run()
    assert error.value.where == "eval.calibrate.engine"


def test_after_an_evaluation_nothing_is_held_and_the_process_trains_and_evaluates_on(tmp_path: Path) -> None:
    """In a process of its own, which keeps what DeepSpeed leaves behind."""
    script = Path(__file__).with_name("train_between.py")
    tests = script.parents[1]
    env = os.environ | {"PYTHONPATH": f"{tests.parent}:{tests / 'unit' / 'generate'}"}
    words = [sys.executable, script, tmp_path]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_peers_remember_engines_over_attempts(tmp_path: Path) -> None:
    exp = stage(sampling=GREEDY, eval={"engine": "transformers"})
    ctx = context(tmp_path, exp)
    Evaluate(ctx).run()
    (path,) = ctx.paths.root.glob("samples/attempt-1.rank-00000.engine.json")
    assert read_json(path)["name"] == "transformers"
