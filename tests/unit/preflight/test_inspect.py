"""What `check --cluster` finds of models, tokenizers and rows, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from preflight_world import experiment, model, rows

from jobs.preflight.inspect import Finding, Inspection, inspect
from latentctl.spec.experiment import Experiment


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return rows(tmp_path / "train.jsonl")


def look(of: Experiment, gpu_bytes: int | None = None) -> Inspection:
    return inspect(of, data_dir=None, gpu_bytes=gpu_bytes)


def wrong(found: Inspection) -> list[Finding]:
    return [f for f in found.findings if f.level not in ("ok", "unknown")]


def test_a_good_recipe_has_nothing_wrong_and_its_sizes(tiny: Path, data: Path) -> None:
    found = look(experiment(data, tiny))
    assert wrong(found) == []
    said = {f.message for f in found.findings}
    assert f"{tiny}: weights are there" in said
    assert "gsm8k, train: 12 rows" in said
    assert "12 rows survive the tokenizer, by plain text" in said
    sft, evaluation = found.stages
    assert found.disk == sft["disk"] == 3 * sft["checkpoint"] + 4 * sft["parameters"]
    assert evaluation["cache_per_token"] > 0


def test_what_stages_share_is_said_once(tiny: Path, data: Path) -> None:
    said = [f.message for f in look(experiment(data, tiny)).findings]
    assert len(said) == len(set(said))


def test_weights_of_a_directory_have_the_shape_that_counts(tmp_path: Path, tiny: Path, data: Path) -> None:
    """`from:` a directory: the recipe's own model is not what is loaded."""
    big = model(tmp_path / "big", hidden=64)
    stages = [{"method": "sft", "from": str(big)}]
    found = look(experiment(data, tiny, stages=stages))
    assert wrong(found) == []
    assert f"{big}: weights are there" in {f.message for f in found.findings}
    (plain,) = look(experiment(data, big, stages=[{"method": "sft"}])).stages
    assert found.stages[0]["parameters"] == plain["parameters"]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda m: (m / "model.safetensors").unlink(), "has a config.json but no weights"),
        (lambda m: (m / "config.json").write_text("{"), "cannot be read"),
        (lambda m: (m / "tokenizer.json").write_text("{"), "tokenizer"),
    ],
)
def test_a_broken_model_is_found(tmp_path: Path, data: Path, break_it: Any, words: str) -> None:
    folder = model(tmp_path / "broken")
    break_it(folder)
    found = wrong(look(experiment(data, folder)))
    assert any(words in f.message and f.level == "error" for f in found), found


def test_a_bad_row_and_a_missing_file_are_found(tiny: Path, data: Path) -> None:
    recipe = experiment(data, tiny)
    data.write_text(data.read_text() + '{"question": "no answer"}\n')
    (found,) = {f.message: f for f in wrong(look(recipe))}.values()
    assert found.level == "error"
    assert "13" in str(found) or "no answer" in found.message or "answer" in found.message
    data.unlink()
    assert any("no such file" in f.message for f in wrong(look(recipe)))


def test_rows_beyond_what_the_model_knows_are_found(tmp_path: Path) -> None:
    long = rows(tmp_path / "long.jsonl", words=80)
    (found,) = wrong(look(experiment(long, model(tmp_path / "short", max_len=64))))
    assert found.level == "warning"
    assert "the model knows positions up to 64" in found.message


def test_a_model_of_the_hub_that_is_not_here_is_found(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = wrong(look(experiment(data, "nobody/nothing")))
    assert any("not in the cache" in f.message and f.hint and "prefetch" in f.hint for f in found)
    assert all(f.level == "error" for f in found)


@pytest.mark.parametrize(("gib", "level"), [(100.0, "ok"), (0.5, "error"), (None, "unknown")])
def test_memory_of_a_gpu_is_held_against_what_is_needed(
    tiny: Path, data: Path, gib: float | None, level: str
) -> None:
    recipe = experiment(data, tiny, resources={"gpus": 1}, stages=[{"method": "sft"}])
    found = look(recipe, int(gib * 2**30) if gib else None)
    (said,) = [f for f in found.findings if "of each GPU" in f.message]
    assert said.level == level
    assert "weights" in said.message
    assert "optimizer" in said.message
    if level == "error":
        assert said.hint is not None
        assert "micro_batch" in said.hint


def test_a_tight_fit_is_a_warning(tiny: Path, data: Path) -> None:
    recipe = experiment(data, tiny, resources={"gpus": 1}, stages=[{"method": "sft"}])
    need = sum(look(recipe).stages[0]["memory"].values())
    (said,) = [f for f in look(recipe, int(need / 0.95)).findings if "tight" in f.message]
    assert said.level == "warning"


def template(folder: Path, text: str) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": text}))


def test_a_template_that_ends_answers_otherwise_is_found(tmp_path: Path, data: Path) -> None:
    folder = model(tmp_path / "chat")
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}<over>\n{% endfor %}"
    template(folder, turns + "{% if add_generation_prompt %}assistant: {% endif %}")
    (found,) = wrong(look(experiment(data, folder)))
    assert found.level == "warning"
    assert "'<over>'" in found.message
    template(
        folder,
        turns.replace("<over>", "{{ eos_token }}") + "{% if add_generation_prompt %}assistant: {% endif %}",
    )
    assert wrong(look(experiment(data, folder))) == []


def test_a_template_that_refuses_is_found(tmp_path: Path, data: Path) -> None:
    folder = model(tmp_path / "chat")
    template(folder, "{{ raise_exception('no system role') }}")
    found = wrong(look(experiment(data, folder)))
    assert any("chat template refuses this prompt" in f.message and f.level == "error" for f in found)


def test_markers_of_latent_spans_are_looked_up(tiny: Path, data: Path) -> None:
    stages = [{"method": "coconut", "coconut": {"variant": "coconut", "stage": 1}}, {"method": "eval"}]
    found = look(experiment(data, tiny, stages=stages, latent={"input": "hidden"}))
    (said,) = [f for f in found.findings if "latent.markers" in f.where]
    assert said.level == "ok"
    assert "2 of them new" in said.message


def test_text_that_the_tokenizer_changes_is_found(tmp_path: Path, data: Path) -> None:
    folder = model(tmp_path / "lower")
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    path.write_text(
        json.dumps({**spec, "normalizer": {"type": "Replace", "pattern": {"String": "1"}, "content": "7"}})
    )
    (found,) = wrong(look(experiment(data, folder)))
    assert "come back otherwise from the tokenizer" in found.message
    assert "which becomes" in found.message


@pytest.mark.parametrize(
    ("rollout", "engine", "held"),
    [
        ({}, "transformers", {"KV cache"}),
        ({}, "vllm", {"KV cache", "engine"}),
        ({"processes": 1}, "transformers", set()),
    ],
)
def test_memory_of_a_trainer_with_rollouts(
    tiny: Path, data: Path, rollout: dict[str, int], engine: str, held: set[str]
) -> None:
    """What generates in another process takes no memory of a trainer, and is no trainer."""
    grpo = {"group_size": 2, "engine": engine, "rewards": {"correctness": 1.0}, "rollout": rollout}
    stages = [{"name": "rl", "method": "grpo", "grpo": grpo}]
    tasks = 3 if rollout else 2
    recipe = experiment(data, tiny, stages=stages, resources={"gpus": tasks}, train={"steps": 2, "batch": 8})
    (row,) = look(recipe).stages
    parts = row["memory"]
    assert set(parts) - {"weights", "gradients", "optimizer", "buffers", "activations", "logits"} == held
    alone = experiment(
        data, tiny, stages=[{"method": "sft"}], resources={"gpus": 2}, train={"steps": 2, "batch": 8}
    )
    assert parts["optimizer"] == look(alone).stages[0]["memory"]["optimizer"]
