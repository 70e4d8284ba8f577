"""What a trainer pushes is its plain model, from every split: in pieces, with adapters, tied."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trainer import ITEMS, adapted, llama

from jobs.models.plain_export import plain_weights
from jobs.rl.weights import pieces, plain_stream, tensors

pytestmark = pytest.mark.heavy
REPO = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_a_stream_is_the_plain_export_one_tensor_at_a_time(tied: bool, lora: bool) -> None:
    model = llama(tied=tied)
    if lora:
        adapted(model)
    whole = plain_weights(model)
    found = dict(plain_stream(model))
    assert list(found) == list(whole) == [p.name for p in pieces(model)]
    assert ("lm_head.weight" in found) == (not tied)
    for piece in pieces(model):
        assert torch.equal(found[piece.name], whole[piece.name])
        assert (tuple(whole[piece.name].shape), whole[piece.name].dtype) == (piece.shape, piece.dtype)


def test_a_whole_model_is_not_copied() -> None:
    model = llama()
    own = {p.data_ptr() for p in model.parameters()}
    assert {t.data_ptr() for _, t in tensors(model)} == own


def test_weights_beside_children_and_lasting_buffers_come_too() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))
            self.inner = torch.nn.BatchNorm1d(3)
            self.register_buffer("passing", torch.zeros(1), persistent=False)

    model = torch.nn.Sequential(Odd(), torch.nn.Linear(3, 3))
    found = dict(plain_stream(model))
    assert found.keys() == plain_weights(model).keys() == model.state_dict().keys()


@pytest.mark.parametrize(("zero", "lora"), [(0, "lora"), (2, "whole"), (3, "whole"), (3, "lora")])
def test_two_processes_push_one_model(zero: int, lora: str, tmp_path: Path) -> None:
    """Into a folder and into an engine of rank 0; a refusal there is known to both, and training goes on."""
    from transformers import LlamaForCausalLM

    from jobs.generate.score import score
    from jobs.generate.weight_files import read
    from jobs.rl.folder import committed

    said = two_ranks(tmp_path, str(zero), lora, str(tmp_path))
    weights = committed(tmp_path / "weights")
    assert [c.version for c in weights] == [1, 2]
    model: Any = LlamaForCausalLM(llama(tied=True).config).eval()
    before = dict(read(weights[0].folder))
    newest = dict(read(weights[1].folder))
    assert newest.keys() == before.keys() == plain_weights(model).keys()
    assert any(not torch.equal(before[k], newest[k]) for k in newest)
    model.load_state_dict(newest, strict=False)
    want = list(score(model, ITEMS, max_batch=8, max_batch_tokens=4096))
    for found in (said[0]["scores"], said[1]["scores"], said[0]["copied"]):
        for one, other in zip(found, want, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
    assert said[0]["version"] == 2
    assert ["is there already" in said[0]["refused"][0], "older" in said[0]["refused"][1]] == [True, True]
    assert all("another process of the trainer" in words for words in said[1]["refused"])
    assert len(said[1]["refused"]) == 2


def two_ranks(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    processes = []
    for rank in range(2):
        env = {
            **os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(REPO),
        }  # fmt: skip
        log = (folder / f"rank-{rank}.log").open("w")
        script = [sys.executable, str(Path(__file__).with_name("tiny_trainer.py")), *arguments]
        processes.append(subprocess.Popen(script, env=env, stdout=log, stderr=log))
    try:
        codes = [p.wait(timeout=240) for p in processes]
    finally:
        for p in processes:
            p.kill()
    logs = [(folder / f"rank-{rank}.log").read_text()[-3000:] for rank in range(2)]
    assert codes == [0, 0], "\n".join(logs)
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in range(2)]
