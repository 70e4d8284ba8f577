"""Weights from GPU to GPU, by vLLM's own weight transfer: `nccl` to other GPUs, `ipc` on the same ones.

The engine computes in processes of its own, which this process started and speaks to; the tensors take the
short way. Imports vLLM.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed.weight_transfer import (
    ParamMeta,
    WeightSource,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from jobs.generate.vllm_engine import VllmEngine
from jobs.generate.vllm_sync import Sync, Transport
from jobs.generate.weights import Stream
from jobs.rl.weights import pieces, tensors, together
from jobs.runtime.errors import JobUserError


class Transfer:
    """A `Pusher` of one model. On rank 0 of the trainer with the `engine`, on the others without.

    `nccl`: the engine's GPUs are none of the trainer's. `ipc`: they are the trainer's, and every one of them
    has a process of the trainer.
    """

    def __init__(
        self,
        model: nn.Module,
        engine: VllmEngine | None,
        *,
        transport: Transport,
        rank: int,
        device: torch.device,
    ) -> None:
        if engine is not None and engine.sync.changes.transfer != transport:
            raise JobUserError(f"the engine was not started for weights by {transport}")
        if (engine is not None) != (rank == 0):
            raise ValueError("the engine belongs to rank 0")
        self._model, self._engine = model, engine
        self._source = Source(model, device, keep=transport == "ipc" or rank == 0)
        self._sender: Any = WeightTransferTrainerFactory.trainer_init(
            _init(transport, rank, engine), client=Client(engine), source=self._source
        )

    def push(self, model: nn.Module, version: int) -> None:
        if model is not self._model:
            raise ValueError("another model than the one that this transfer was set up with")
        coming = Stream({piece.name: piece.shape for piece in pieces(model)}, ())
        engine, send = self._engine, self._sender.send_weights
        with together():  # before all of them gather, it is clear that the engine takes what comes
            if engine is not None:
                engine.may_receive(coming, version)
        with together():
            send() if engine is None else engine.receive(coming, version, send)

    def close(self) -> None:
        self._sender.shutdown()


class Source(WeightSource):
    """The plain weights of `model` on `device`, as vLLM's senders ask for them. With `keep` false this
    process only helps to gather."""

    def __init__(self, model: nn.Module, device: torch.device, *, keep: bool) -> None:
        self._model, self._device, self._keep = model, device, keep

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(piece.name, piece.dtype, piece.shape) for piece in pieces(self._model)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors(self._model, keep=self._keep):
            yield name, tensor.to(self._device)


class Client:
    """What vLLM's senders call on the other side (its `VLLMWeightSyncClient`)."""

    def __init__(self, engine: VllmEngine | None) -> None:
        self._engine = engine

    @property
    def _sync(self) -> Sync:
        if self._engine is None:
            raise RuntimeError("only rank 0 speaks to the engine")
        return self._engine.sync

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._sync.call("init_weight_transfer_engine", init_info)

    def start_weight_update(self) -> None:
        self._sync.call("start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        self._sync.call("weights_update", pickle.dumps(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._sync.call("finish_weight_update")
        self._sync.call("weights_loaded")

    def shutdown_weight_transfer_engine(self) -> None:
        self._sync.call("shutdown_weight_transfer_engine")


def _init(transport: Transport, rank: int, engine: VllmEngine | None) -> Any:
    if transport == "ipc":
        return IPCTrainerInitInfo(packed=True, rank=rank)
    workers = 0 if engine is None else engine.sync.workers
    return NCCLTrainerInitInfo(
        master_address="127.0.0.1", master_port=_free_port(), world_size=1 + workers, rank=rank
    )


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
