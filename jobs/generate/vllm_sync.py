"""How the weights of a running vLLM are exchanged, and how it gives back its memory meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from jobs.generate import weight_files
from jobs.generate.holding import Holding
from jobs.generate.vllm_args import Devices, Loading
from jobs.generate.weights import Shapes, Source, Stream, check, shapes_of, stream
from jobs.runtime.errors import JobUserError

Transport = Literal["nccl", "ipc"]


@dataclass(frozen=True, slots=True)
class Changes:
    """What an engine is started ready for, besides being loaded anew."""

    transfer: Transport | None = None
    """Weights come from GPU to GPU: `nccl` from another one, `ipc` from the same one (`jobs.rl.transfer`)."""
    sleeps: bool = False
    """It can give back its GPUs' memory. On a CPU nothing needs to be said."""


NO_CHANGES = Changes()


def sync_args(changes: Changes, devices: Devices, *, latent: bool) -> dict[str, Any]:
    """Arguments of vLLM's `EngineArgs`. Raises JobUserError for what cannot be had on these devices."""
    args: dict[str, Any] = {}
    if not latent:  # the plugin's workers know these calls
        args["worker_extension_cls"] = "jobs.generate.vllm_plugin.rpc.WeightCalls"
    if changes.transfer is not None:
        if not devices.gpus:
            raise JobUserError(f"weights come by {changes.transfer} between GPUs, and this engine has none")
        if not devices.own_process:
            raise JobUserError(
                f"weights come by {changes.transfer} into another process, and this engine has none",
                hint="load() takes the trainer's tensors where they are",
            )
        args["weight_transfer_config"] = {"backend": changes.transfer}
    if changes.sleeps and devices.gpus:
        args["enable_sleep_mode"] = True
    return args


class Sync:
    """On vLLM's `LLMEngine`, started with `loading` on `devices`, ready for `changes`; `config`: the model's,
    as transformers reads it."""

    def __init__(self, vllm: Any, loading: Loading, config: Any, devices: Devices, changes: Changes) -> None:
        self._vllm = vllm
        self._config, self._trust = config, loading.trust_remote_code
        self._own_process = devices.own_process
        self._gpus = bool(devices.gpus)
        self.changes = changes

    @cached_property
    def made_of(self) -> Shapes:
        return shapes_of(self._config, trust_remote_code=self._trust)

    @property
    def workers(self) -> int:
        return self._vllm.vllm_config.parallel_config.world_size

    def call(self, method: str, *args: Any) -> list[Any]:
        """Of every worker."""
        return self._vllm.engine_core.collective_rpc(method, args=args)

    def forget(self) -> None:
        """Drop the keys and values of all prompts. Raises JobUserError while vLLM works on requests."""
        if self._vllm.has_unfinished_requests() or not self._vllm.reset_prefix_cache():
            raise JobUserError("vLLM is still at work on requests: its prefix cache cannot be reset")

    def put(self, coming: Stream) -> None:
        """Replace all weights. An engine in a process of its own reads them from files, which lie in memory
        where this machine has such a place. Raises `weight_files.Unreadable`."""
        if coming.where is not None:
            self._read(coming.where)
        elif self._own_process:
            with TemporaryDirectory(prefix="weights-", dir=_in_memory()) as folder:
                weight_files.write(Path(folder), coming)
                self._read(Path(folder))
        else:
            self.call("weights_load", iter(coming))

    def _read(self, folder: Path) -> None:
        for wrong in self.call("weights_load", str(folder.absolute())):
            if wrong is not None:
                message, where = wrong
                raise weight_files.Unreadable(message, where=where)

    def sleep(self, *, keep: bool) -> None:
        """Give back what can be: on GPUs the cache and the weights, which are `keep`-t on the host or not at
        all; on a CPU, where vLLM holds on to its memory, only what the cache knows."""
        if self._gpus and not self.changes.sleeps:
            raise JobUserError("this engine was not started to sleep", hint="Changes(sleeps=True) does")
        self.forget()
        if self._gpus:
            self._vllm.sleep(level=1 if keep else 2)

    def wake(self) -> None:
        if self._gpus:
            self._vllm.wake_up()


class Synced(Holding):
    """Mixed into the engine."""

    sync: Sync

    def load(self, weights: Source, version: int) -> None:
        """See `jobs.generate.protocol.Engine.load`."""
        coming = stream(weights)
        self.receive(coming, version, lambda: self.sync.put(coming))

    def receive(self, coming: Stream, version: int, bring: Callable[[], None]) -> None:
        """As `load`, where `bring` brings the weights to all workers itself."""
        self.may_receive(coming, version)
        self.sync.forget()
        with self._replacing(version):
            bring()

    def may_receive(self, coming: Stream, version: int) -> None:
        """Raises JobUserError where `receive` would before it begins."""
        self._may_load(version)
        check(self.sync.made_of, coming)

    def sleep(self, *, keep: bool = True) -> None:
        if self._asleep:
            return
        self._must_be_idle("sleep")
        self.sync.sleep(keep=keep)
        self._fall_asleep(keep=keep)

    def wake(self) -> None:
        if self._asleep:
            self.sync.wake()
            self._asleep = False


def _in_memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
