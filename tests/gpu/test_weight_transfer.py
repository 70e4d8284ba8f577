"""Weights from GPU to GPU into a running vLLM, and the memory that it gives back asleep."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "vllm"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "rl"))

pytest.importorskip("vllm", reason="vllm is not installed")

from syncing import QUESTIONS
from tiny import model, tokenizer
from tiny_trainer import ITEMS

from jobs.generate.vllm_args import Devices, Loading, Room
from jobs.generate.vllm_engine import VllmEngine
from jobs.generate.vllm_sync import Changes, Transport
from jobs.rl.agree import Disagreement, agrees
from jobs.runtime.errors import JobUserError

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here"),
]


@pytest.fixture(params=["ipc", "nccl"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Transport, VllmEngine, Any]]:
    """Of an engine on the trainer's GPU (ipc) or on the next one (nccl), and the trainer's model on the
    first."""
    gpu = 1 if request.param == "nccl" else 0
    if torch.cuda.device_count() <= gpu:
        pytest.skip("nccl needs a second GPU")
    torch.cuda.set_device(0)
    own = model("llama")
    own.save_pretrained(tmp_path)
    engine = VllmEngine(
        Loading(str(tmp_path), torch.float32),
        tokenizer(),
        config=own.config,
        room=Room(256, max_batch=4, gpu_memory=0.3),
        devices=Devices(gpus=(gpu,), own_process=True),
        latent=True,
        changes=Changes(request.param, sleeps=True),
    )
    yield request.param, engine, own.to("cuda:0")
    engine.close()


def test_a_push_arrives_also_after_sleep(pair: tuple[Transport, VllmEngine, Any]) -> None:
    from jobs.rl.transfer import Transfer

    transport, engine, own = pair
    pushes = Transfer(own, engine, transport=transport, rank=0, device=torch.device("cuda", 0))
    gpu = engine.devices.gpus[0]
    for version, keep in ((1, True), (2, True), (3, False)):
        free = torch.cuda.mem_get_info(gpu)[0]
        engine.sleep(keep=keep)
        assert torch.cuda.mem_get_info(gpu)[0] > free + (1 << 30)
        with pytest.raises(JobUserError, match="asleep"):
            list(engine.generate(QUESTIONS))
        with torch.no_grad():
            for parameter in own.parameters():
                parameter.mul_(1.1)
        engine.wake()
        if keep:
            with pytest.raises(Disagreement):
                agrees(engine, own, ITEMS)
        pushes.push(own, version)
        assert agrees(engine, own, ITEMS) < 1e-3
        assert {s.version for s in engine.generate(QUESTIONS)} == {version}
    pushes.close()
