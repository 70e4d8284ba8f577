"""Prints bytes for each ZeRO stage and precision: what one process holds after a step of the engine, and its
checkpoint on disk."""

from __future__ import annotations

import gc
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch
from test_preflight_memory import INITS, VOCAB, made

from jobs.methods.protocol import World
from jobs.runtime import distributed
from jobs.train.engine import Engine
from jobs.train.objective import Batch, Outcome
from jobs.train.split import Split
from latentctl.spec.model import InitSpec
from latentctl.spec.train import TrainSpec


class Sum:
    """The smallest objective: every weight gets a gradient."""

    metrics = ()

    def loss(self, model, tensors, *, measure):
        logits = model(input_ids=tensors["ids"], use_cache=False).logits.float()
        return Outcome(logits.square().sum(), {})


def main(folder: str) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    distributed.init(World(0, 1, 0, 1), deepspeed=True)
    for stage in range(4):
        for precision in ("fp32", "bf16"):
            print(stage, precision, *measure(Path(folder) / f"{stage}-{precision}", stage, precision))


def measure(folder: Path, stage: Any, precision: str) -> tuple[int, int]:
    """(held, written)."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    gc.collect()
    before = tensors()
    engine = Engine(
        made(InitSpec(**INITS["llama"]), dtype),
        Sum(),  # type: ignore[arg-type]
        TrainSpec(zero_stage=stage, batch=2, micro_batch=2, steps=2),
        split=Split(micro=2, accumulate=1, world=1, rank=0),
        total=2,
        device=torch.device("cpu"),
        dtype=dtype,
    )
    batch = Batch({"ids": torch.randint(0, VOCAB, (2, 8))}, 2.0, 16, 2)
    engine.step([batch])
    loss, _ = engine._engine({"ids": batch.tensors["ids"]})
    engine._engine.backward(loss)  # gradients are there now, and the graph is gone
    del loss
    gc.collect()
    held = sum(size for key, size in tensors().items() if key not in before)
    engine.save(folder)
    engine.close()
    return held, sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def tensors() -> dict[int, int]:
    """Storage -> bytes, of every tensor that is alive."""
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and not thing.is_meta:
            for one in (thing, thing.grad if thing.is_leaf else None):
                if one is not None:
                    found[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
