"""Sizes that are computed, against sizes that are there: parameters, what autograd keeps, DeepSpeed's
tensors after a step, keys and values, the files of a checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.models.random_init import config_of, random_model
from jobs.preflight import memory
from jobs.preflight.shape import shape
from latentctl.spec.model import InitSpec, LoraSpec
from latentctl.spec.train import TrainSpec

INITS = {
    "qwen3": {"arch": "qwen3", "hidden": 64, "heads": 4, "kv_heads": 2, "intermediate": 96, "layers": 3},
    "llama": {"arch": "llama", "hidden": 48, "heads": 2, "intermediate": 160, "layers": 4},
    "qwen2": {"arch": "qwen2", "hidden": 64, "heads": 4, "kv_heads": 1, "layers": 2, "tie_embeddings": False},
    "gpt2": {"arch": "gpt2", "hidden": 64, "heads": 4, "layers": 3},
}
VOCAB = 130


def made(init: InitSpec, dtype: torch.dtype = torch.float32) -> Any:
    return random_model(init, vocab_size=VOCAB, attention="sdpa", dtype=dtype, device=torch.device("cpu"))


@pytest.mark.parametrize("name", INITS)
def test_the_shape_is_that_of_the_model(name: str) -> None:
    init = InitSpec(**INITS[name])
    found = shape(config_of(init, VOCAB))
    model = made(init)
    assert found.parameters == found.trained == sum(p.numel() for p in model.parameters())
    assert (found.layers, found.hidden, found.vocab) == (init.layers, init.hidden, VOCAB)
    kept = model(torch.zeros(1, 5, dtype=torch.long), use_cache=True).past_key_values
    size = sum(t.nbytes for layer in kept.layers for t in (layer.keys, layer.values))
    assert memory.cache_per_token(found, "fp32") * 5 == size


def test_adapters_are_all_that_is_trained() -> None:
    from jobs.models.lora import add_lora

    init = InitSpec(**INITS["llama"])
    spec = LoraSpec(r=4)
    found = shape(config_of(init, VOCAB), lora=spec)
    model = add_lora(made(init).requires_grad_(False), spec, seed=0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.trained == trained
    assert found.parameters == sum(p.numel() for p in made(init).parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", INITS)
def test_activations_are_what_autograd_keeps(name: str, checkpointing: bool, precision: Any) -> None:
    """Of the layers: the difference between a model and one with more of them. Within a tenth."""
    init = InitSpec(**INITS[name])
    more = init.model_copy(update={"layers": init.layers + 4})
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    kept = [kept_by_autograd(made(i, dtype), checkpointing=checkpointing) for i in (init, more)]
    told = [
        memory.activations(shape(config_of(i, VOCAB)), precision, 2 * 64, checkpointing=checkpointing)
        for i in (init, more)
    ]
    assert told[1] - told[0] == pytest.approx(kept[1] - kept[0], rel=0.1)


def kept_by_autograd(model: Any, *, checkpointing: bool) -> int:
    """Bytes of all distinct storages that two rows of 64 tokens leave for the backward pass."""
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model.base_model(input_ids=torch.zeros(2, 64, dtype=torch.long), use_cache=False)
    return sum(t.untyped_storage().nbytes() for t in held.values())


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], tuple[int, int]]:
    """(ZeRO stage, precision) -> bytes that our own engine holds after a step, bytes of its checkpoint."""
    script = str(Path(__file__).with_name("measure_engine.py"))
    done = subprocess.run(
        [sys.executable, script, str(tmp_path_factory.mktemp("engines"))],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [
        line.split() for line in done.stdout.splitlines() if line[:1].isdigit() and len(line.split()) == 4
    ]
    return {(int(stage), precision): (int(held), int(written)) for stage, precision, held, written in rows}


@pytest.mark.heavy
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_training_holds_what_is_told_of_it(
    measured: dict[tuple[int, str], tuple[int, int]], stage: Any, precision: Any
) -> None:
    """Weights, gradients and optimizer, and the files of a checkpoint. Within a tenth, for one process: the
    shares of several are a division."""
    held, written = measured[stage, precision]
    found = shape(config_of(InitSpec(**INITS["llama"]), VOCAB))
    train = TrainSpec(zero_stage=stage, batch=2, steps=2)
    told = memory.training(found, train, precision, world=1, tokens=0)
    if stage < 3:
        del told["buffers"]  # there only while gradients flow
    assert sum(told.values()) == pytest.approx(held, rel=0.1)
    assert memory.checkpoint(found, train, precision) == pytest.approx(written, rel=0.1)


def test_several_processes_share_what_their_stage_shares() -> None:
    found = shape(config_of(InitSpec(**INITS["llama"]), VOCAB))
    whole = found.parameters

    def of(stage: Any, world: int) -> int:
        train = TrainSpec(zero_stage=stage, batch=8, steps=2)
        parts = memory.training(found, train, "bf16", world=world, tokens=0)
        return sum(parts.values()) - parts["buffers"]

    # arXiv 1910.02054, figure 1, with sums of gradients in fp32 as this engine keeps them
    assert of(1, 8) == 2 * whole + (2 + 4) * whole + 12 * (whole // 8)
    assert of(2, 8) == 2 * whole + 4 * (whole // 8) + 12 * (whole // 8)
    assert of(3, 8) == 2 * whole // 8 + (4 + 12) * (whole // 8)
    assert of(0, 8) == of(1, 8), "bf16 at stage 0 runs as stage 1"
