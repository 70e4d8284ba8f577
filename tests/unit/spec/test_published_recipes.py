"""The recipes that repeat a published experiment hold its published settings."""

from __future__ import annotations

import re
from typing import Any

import pytest

from latentctl import shipped
from latentctl.spec.load import load_recipe
from latentctl.spec.methods import CoconutSettings
from latentctl.spec.stage import StageBase

FOLDER = shipped.folder("recipes")


def points(name: str, *sets: str) -> list[list[StageBase]]:
    return [p.experiment.stages for p in load_recipe(FOLDER / f"{name}.yaml", sets).points]


def stages(name: str, *sets: str) -> dict[str, StageBase]:
    (found,) = points(name, *sets)
    return {s.name: s for s in found}


def coconut(stage: StageBase) -> CoconutSettings:
    assert isinstance(stage.settings, CoconutSettings)
    return stage.settings


def comment(name: str) -> str:
    """The comment that opens a recipe, on one line."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def test_gsm8k_text_then_one_more_step_replaced_every_three_epochs_then_none_left() -> None:
    found = stages("coconut-gsm8k")
    assert list(found) == ["cot", "coconut.1", "coconut.2", "coconut.3", "coconut.4", "eval"]
    assert [found[f"coconut.{s}"].train.epochs for s in (1, 2, 3, 4)] == [3, 3, 3, 13]
    assert (coconut(found["cot"]).variant, found["cot"].train.epochs) == ("cot", 25)
    assert [s.from_ for s in found.values()] == [
        "model", "cot@best", "coconut.1", "coconut.2", "coconut.3", "coconut.4@best"
    ]  # fmt: skip
    for stage in found.values():
        if stage.method == "coconut":
            assert (coconut(stage).latents_per_step, coconut(stage).max_stage) == (2, 3)
            assert coconut(stage).uniform_prob == 0
            assert (stage.train.lr, stage.train.weight_decay, stage.train.clip) == (1e-4, 0.01, 0)
            assert (stage.train.schedule, stage.train.warmup) == ("constant", 0)
    assert found["eval"].sampling.max_new_tokens == 64 + 6 + 2  # of text, latent steps, markers


@pytest.mark.parametrize("task", ["prontoqa", "prosqa"])
def test_the_graph_tasks_take_one_latent_step_a_step_up_to_six(task: str) -> None:
    found = stages(f"coconut-{task}")
    chain = [s for s in found.values() if s.method == "coconut"]
    assert [coconut(s).stage for s in chain] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [s.train.epochs for s in chain] == [5, 5, 5, 5, 5, 5, 5, 15]
    assert {(coconut(s).latents_per_step, coconut(s).max_stage) for s in chain} == {(1, 6)}
    assert {s.dataset.name for s in found.values()} == {task}
    assert found["eval"].sampling.max_new_tokens == 128 + 6 + 2  # of text, latent steps, markers


@pytest.mark.parametrize(
    "name", ["coconut-gsm8k", "coconut-prontoqa", "coconut-prosqa", "coconut-contextual"]
)
def test_two_small_gpus_take_eight_rows_four_times(name: str) -> None:
    for found in points(name):
        for stage in found:
            if stage.method == "coconut":
                world = stage.resources.world_size
                assert (world, stage.train.micro(world)) == (2, 8)
                assert stage.train.batch // (world * stage.train.micro(world)) == 4
                assert stage.train.uneven(world) is None


def test_the_published_batch_is_one_option_away() -> None:
    assert {
        s.train.batch for s in stages("coconut-gsm8k", "train.batch=128").values() if s.method == "coconut"
    } == {128}


def test_the_contextual_inputs_are_plain_right_and_the_forks() -> None:
    inputs: list[Any] = [found[0].latent.input.model_dump() for found in points("coconut-contextual")]  # pyright: ignore
    assert [i["kind"] for i in inputs] == ["hidden", "contextual", "contextual"]
    assert [i.get("compat") for i in inputs] == [None, False, True]
    assert [i["weights"] for i in inputs[1:]] == [[0.6, 0.3, 0.1]] * 2


def test_the_ablations_differ_from_coconut_in_one_thing_each() -> None:
    found = stages("coconut-ablations")
    plain = coconut(stages("coconut-prosqa")["coconut.7"])
    for name, differs in (
        ("no-thoughts.7", {"variant": "no_thoughts"}),
        ("pause.7", {}),
        ("no-curriculum", {"curriculum": False}),
        ("no-cot", {"variant": "no_cot", "stage": None}),
    ):
        assert coconut(found[name]).model_dump() == plain.model_dump() | differs
    pause = found["pause.7"].latent
    assert pause is not None
    assert pause.input is not None
    assert pause.input.kind == "pause"
    for name in ("no-thoughts.0", "pause.0", "no-curriculum", "no-cot"):
        assert found[name].from_ == "model"
    ends = {
        "no-thoughts": "no-thoughts.7",
        "pause": "pause.7",
        "no-curriculum": "no-curriculum",
        "no-cot": "no-cot",
    }
    assert {name: found[f"{name}-eval"].from_ for name in ends} == ends
    epochs = {name: 0.0 for name in ends}
    for stage in found.values():
        if stage.method == "coconut":
            epochs[stage.name.partition(".")[0]] += stage.train.epochs or 0
    assert set(epochs.values()) == {50}


def test_the_cold_start_of_latent_cot_rl() -> None:
    found = stages("latent-cot-gpt2")
    chain = [s for s in found.values() if s.method == "coconut"]
    assert [s.train.epochs for s in chain] == [6, 3, 3, 3, 3]
    assert [coconut(s).stage for s in chain] == [0, 1, 2, 3, 4]
    for stage in chain:
        settings = coconut(stage)
        assert (settings.count, settings.latents_per_step, settings.data_mixing_ratio) == (
            "per_example",
            2,
            0,
        )
        assert (settings.steps, stage.train.lr, stage.train.batch) == ("formula", 1e-4, 16)
        assert stage.model.path == "openai-community/gpt2-xl"
    for step in range(5):
        stage = found[f"eval-{step}"]
        assert stage.from_ == f"coco.{step}"
        assert stage.latent is not None
        assert stage.latent.stop is not None
        assert stage.latent.stop.fixed == 2 * step


def test_soft_thinking_ends_by_entropy_or_by_the_marker() -> None:
    sweep = points("soft-thinking-entropy")
    assert len(sweep) == 4
    for (stage,), threshold in zip(sweep, (0.01, 0.05, 0.1, 0.2), strict=True):
        latent: Any = stage.latent
        assert (latent.stop.entropy.threshold, latent.stop.entropy.patience) == (threshold, 64)
        assert (latent.stop.end_marker, latent.stop.max_len, stage.sampling.max_new_tokens) == (
            False,
            800,
            1024,
        )
    (stage,) = stages("soft-thinking-end-token").values()
    latent = stage.latent
    assert (latent.stop.end_marker, latent.stop.entropy, latent.stop.max_len) == (True, None, 7500)
    assert stage.sampling.max_new_tokens == 8192
    for one in (stage, sweep[0][0]):
        latent = one.latent
        assert (latent.input.kind, latent.input.top_p, latent.input.temperature) == ("soft", 0.95, 1.0)
        assert (latent.markers.start, latent.start) == ("<think>", "prompt")
        assert (one.sampling.temperature, one.sampling.top_k, one.sampling.top_p) == (0.6, 20, 0.95)


@pytest.mark.parametrize("system", ["general", "none"])
def test_text_reasoning_has_a_budget(system: str) -> None:
    (stage,) = stages("aime-think-budget", f"prompt.system={system}").values()
    assert (stage.sampling.max_think_tokens, stage.sampling.max_new_tokens) == (7500, 8192)
    assert stage.prompt is not None
    assert stage.prompt.system == system
    assert stage.latent is None


COMMANDS = {
    "countdown-sft": ["bash scripts/sft.sh"],
    "latent-cot-gpt2": ["python -m train.coco --model", "do python -m tools.eval --model outputs/"],
    "soft-thinking-entropy": ["for entropy in 0.01 0.05 0.1 0.2; do python -m tools.eval"],
    "soft-thinking-end-token": ["python -m tools.eval", "python -m tools.case"],
    "aime-think-budget": ["python -m tools.eval", "--max_think_tokens 7500"],
    "coconut-gsm8k": ["run.py cpu_args/gsm_cot.yaml", "cpu_args/gsm_coconut.yaml", "gsm_coconut_eval.yaml"],
    "coconut-prontoqa": ["run.py cpu_args/prontoqa_coconut.yaml", "prontoqa_coconut_eval.yaml"],
    "coconut-prosqa": ["run.py cpu_args/prosqa_coconut.yaml", "prosqa_coconut_eval.yaml"],
    "coconut-contextual": ["run.py cpu_args/prosqa_coconut.yaml"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_original_command_stands_in_its_comment(name: str) -> None:
    assert [c for c in COMMANDS[name] if c not in comment(name)] == []


def test_the_page_of_recipes_names_every_one_and_no_other() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z0-9.-]+)\.yaml`", page))
    assert named == {p.stem for p in FOLDER.glob("*.yaml")}
