"""What generates: `engine`, `tensor_parallel` and `gpu_memory` against the rest of a stage."""

from __future__ import annotations

import pytest
from spec_recipes import HEAD, Recipes

from latentctl.spec.methods import CalibrateSettings, EvalSettings

GPUS = "resources: {gpus: 4}\n"
SOFT = "latent: {input: {kind: soft, %s}, stop: 6}\n"


def test_both_methods_say_it_alike() -> None:
    shared = {"engine", "tensor_parallel", "gpu_memory", "max_batch", "max_batch_tokens", "precision"}
    for settings in (EvalSettings, CalibrateSettings):
        assert shared <= set(settings.model_fields)
        assert all(settings.model_fields[key].description for key in shared - {"precision"})


BAD = [
    ("eval: {engine: vlm}", "r.yaml:4:16: eval.engine: 'vlm': expected one of auto, vllm, transformers"),
    ("eval: {gpu_memory: 1.5}", "r.yaml:4:20: eval.gpu_memory: 1.5: expected a number above 0 and at most 1"),
    ("eval: {tensor_parallel: 0}", "r.yaml:4:25: eval.tensor_parallel: 0: expected a whole number"),
    ("eval: {tensor_parallel_size: 2}", "r.yaml:4:8: eval.tensor_parallel_size: unknown key"),
    (
        "eval: {engine: transformers, tensor_parallel: 2}\n" + GPUS,
        "r.yaml:4:30: eval.tensor_parallel: 2 GPUs for one copy of the model: transformers uses one",
    ),
    (
        "eval: {tensor_parallel: 2}",
        "r.yaml:4:8: eval.tensor_parallel: 2 GPUs for one copy of the model, and no GPU is asked for",
    ),
    (
        "eval: {tensor_parallel: 3}\n" + GPUS,
        "r.yaml:4:8: eval.tensor_parallel: 4 GPUs of a node cannot be shared out by 3\nhint: expected one of",
    ),
    (
        "eval: {tensor_parallel: 8}\n" + GPUS,
        "r.yaml:4:8: eval.tensor_parallel: 4 GPUs of a node cannot be shared out by 8",
    ),
    (
        "eval: {tensor_parallel: 2}\nresources: {gpus: 4, tasks: 4}",
        "r.yaml:5:22: resources.tasks: 4 GPUs of a node by 2 are 2 processes, not 4\nhint: leave",
    ),
    (
        "eval: {engine: transformers, gpu_memory: 0.5}\n" + GPUS,
        "r.yaml:4:30: eval.gpu_memory: does nothing with engine: transformers",
    ),
    (
        "eval: {gpu_memory: 0.5}",
        "r.yaml:4:8: eval.gpu_memory: does nothing without GPUs\nhint: leave it out, or",
    ),
    (
        "eval: {engine: vllm}\n" + SOFT % "max_topk: null",
        "r.yaml:5:30: latent.input.max_topk: vLLM mixes a bounded number of tokens, and null is as "
        "many as there are\nhint: at most 64, or engine: transformers",
    ),
    (
        "eval: {tensor_parallel: 4}\n" + GPUS + SOFT % "max_topk: null",
        "r.yaml:6:30: latent.input.max_topk: vLLM mixes a bounded number of tokens, and null is as "
        "many as there are\nhint: at most 64",
    ),
    (
        "eval: {engine: vllm}\n" + SOFT % "max_topk: 65",
        "r.yaml:5:30: latent.input.max_topk: 65 tokens are more than vLLM looks at\nhint: at most 64, or",
    ),
    (
        "eval: {engine: vllm}\n" + SOFT % "top_k: 100, top_p: 0.9",
        "r.yaml:5:30: latent.input.top_k: 100 tokens are more than vLLM looks at\nhint: at most 64, or",
    ),
]


@pytest.mark.parametrize(("text", "expected"), BAD, ids=[t.replace("\n", " ") for t, _ in BAD])
def test_what_cannot_stand_together(recipes: Recipes, text: str, expected: str) -> None:
    (line,) = recipes.lines(f"{HEAD}method: eval\n{text.rstrip()}\n")
    assert line.startswith(expected)


GOOD = [
    "eval: {engine: vllm}",
    "eval: {engine: vllm, gpu_memory: 0.5, tensor_parallel: 4}\n" + GPUS,
    "eval: {tensor_parallel: 2}\nresources: {gpus: 4, tasks: 2}",
    "eval: {gpu_memory: 0.5}\n" + GPUS,
    "eval: {engine: vllm}\n" + SOFT % "max_topk: 64, top_k: 64",
    "eval: {engine: auto}\n" + SOFT % "max_topk: null",  # goes to transformers
    "eval: {engine: transformers}\n" + SOFT % "max_topk: 1000",
    "eval: {engine: vllm}\nlatent: {input: hidden, stop: 6}",
]


@pytest.mark.parametrize("text", GOOD, ids=[t.replace("\n", " ") for t in GOOD])
def test_what_can(recipes: Recipes, text: str) -> None:
    assert recipes.load(f"{HEAD}method: eval\n{text.rstrip()}\n").points


TINY = "model: {init: {}}\ndataset: gsm8k\n"
TEXT = [
    (
        TINY + "method: calibrate\ncalibrate: {engine: vllm}\n",
        "r.yaml:4:13: calibrate.engine: vLLM does not give",
    ),
    (
        HEAD + "method: calibrate\nlatent: {input: none}\ncalibrate: {engine: vllm}\n",
        "r.yaml:5:13: calibrate.engine",
    ),
    (
        HEAD
        + "resources: {gpus: 2}\nstages:\n- sft\n"
        + "- {method: calibrate, calibrate: {tensor_parallel: 2}}\n",
        "r.yaml:6:35: stages.calibrate.calibrate.tensor_parallel: vLLM does not give the entropy of written",
    ),
]


@pytest.mark.parametrize(("text", "expected"), TEXT, ids=["random", "said", "trained"])
def test_text_is_not_calibrated_by_vllm(recipes: Recipes, text: str, expected: str) -> None:
    (line,) = recipes.lines(text)
    assert line.startswith(expected)
    assert "hint: say engine: transformers" in line


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "method: calibrate\ncalibrate: {engine: vllm}\n",  # the checkpoint may bring latent steps
        HEAD + "method: calibrate\nlatent: {stop: 3}\ncalibrate: {engine: vllm}\n",
        TINY + "method: calibrate\nlatent: {input: soft, stop: 3}\ncalibrate: {engine: vllm}\n",
        TINY + "method: calibrate\n",
        HEAD + "stages:\n- coconut\n- {method: calibrate, calibrate: {engine: vllm}}\n",
    ],
)
def test_latent_steps_are(recipes: Recipes, text: str) -> None:
    assert recipes.load(text).points


def test_an_inherited_engine_meets_what_a_stage_says(recipes: Recipes) -> None:
    text = (
        HEAD
        + "eval: {engine: vllm}\nstages:\n"
        + "- {method: eval, latent: {input: {kind: soft, max_topk: null}, stop: 3}}\n"
    )
    (line,) = recipes.lines(text)
    assert line.startswith("r.yaml:5:47: stages.eval.latent.input.max_topk: vLLM mixes a bounded number")
