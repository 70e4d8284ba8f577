"""One DeepSpeed engine: steps with the exact mean over the global batch, measuring, saving, restoring."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from jobs.runtime import distributed
from jobs.train.config import deepspeed_config, optimizer
from jobs.train.objective import Batch, Objective, Step
from jobs.train.schedule import lr_factor
from jobs.train.split import Split
from latentctl.spec.train import TrainSpec

_TAG = "state"


class Stepped(NamedTuple):
    """One optimizer step. Tensors stay on the device, so that nobody waits for them unasked."""

    loss_sum: torch.Tensor
    """(), this rank's sum of the loss."""
    weight: torch.Tensor
    """(), fp64: the weight of the global batch."""
    tokens: torch.Tensor
    """(), fp64: tokens of the global batch."""
    metrics: dict[str, torch.Tensor]
    """(), this rank's sums of what the objective gives in training."""


class Engine:
    """Needs the process group of `jobs.runtime.distributed.init(world, deepspeed=True)`."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        train: TrainSpec,
        *,
        split: Split,
        total: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        deepspeed = distributed.import_deepspeed()
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        self.model = model
        self.split = split
        self.device = device
        self._clip = train.clip
        module = Step(model, objective)
        if train.zero_stage < 3:  # ZeRO-3 shares parameters out before any GPU holds all of them
            module.to(device)
        adamw = optimizer(module, train, device)
        self._adamw = adamw
        self.layout = {
            "processes": split.world,
            "zero_stage": train.zero_stage,
            "precision": str(dtype).removeprefix("torch."),
            "weights": _fingerprint(module),
        }
        """What must agree for another engine to take over this one's optimizer."""
        self._config = deepspeed_config(train, split, dtype)
        self._plain = self._config["zero_optimization"]["stage"] == 0
        self._engine: Any = deepspeed.initialize(
            model=module,
            optimizer=adamw,
            lr_scheduler=LambdaLR(adamw, partial(lr_factor, train, total)),
            config=self._config,
            dist_init_required=False,
        )[0]
        self._engine.train()
        self._norm: Any = None
        self.last_lr = 0.0
        """Learning rate of the last step."""

    def step(self, batches: Sequence[Batch]) -> Stepped:
        """One optimizer step on this rank's micro-batches of a global batch (`split.accumulate` of them).

        The gradient is that of Σ loss / Σ weight over all micro-batches of all ranks: DeepSpeed divides by
        the number of micro-batches and of ranks, which is taken back here, so that the split never changes
        the result.
        """
        self.last_lr = float(self._engine.get_lr()[0])
        totals = self._sum(torch.tensor([sum(b.weight for b in batches), sum(b.tokens for b in batches)]))
        scale = (self.split.accumulate * self.split.world / totals[0].clamp(min=1.0)).float()
        loss_sum = torch.zeros((), device=self.device)
        sums: dict[str, torch.Tensor] = {}
        for i, batch in enumerate(batches):
            loss, found = self._engine(self._here(batch))
            self._engine.backward(loss * scale)
            loss_sum += loss.detach()
            sums = {k: v.double() + sums.get(k, 0.0) for k, v in found.items()}
            if self._plain and i + 1 == len(batches):
                self._clip_whole()
            self._engine.step()
        return Stepped(loss_sum, totals[0], totals[1], sums)

    def measure(self, batches: Iterable[Batch], metrics: Sequence[str]) -> dict[str, float]:
        """Σ / Σ weight of the loss and of each metric over all ranks. Every rank gives equally many
        batches."""
        sums = torch.zeros(2 + len(metrics), dtype=torch.float64)
        self._engine.eval()
        try:
            with torch.no_grad():
                for batch in batches:
                    loss, found = self._engine(self._here(batch), "measure")
                    row = torch.stack([loss.float(), *(found[m].float() for m in metrics)])
                    sums[1:] += row.to(torch.float64).cpu()
                    sums[0] += batch.weight
        finally:
            self._engine.train()
        weight, *values = self._sum(sums).tolist()
        return {
            name: value / max(weight, 1.0) for name, value in zip(["loss", *metrics], values, strict=True)
        }

    def score(self, batches: Iterable[Batch]) -> Iterator[dict[str, torch.Tensor]]:
        """What the objective's `score` says of each batch, on the CPU. Every rank gives equally many."""
        training = self._engine.training
        self._engine.eval()
        try:
            with torch.no_grad():
                for batch in batches:
                    _, found = self._engine(self._here(batch), "score")
                    yield {k: v.cpu() for k, v in found.items()}
        finally:
            self._engine.train(training)

    def grad_norm(self) -> float:
        """2-norm of the last step's gradient before clipping. Waits for the device."""
        norm = self._norm if self._plain else self._engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def total(self, values: Sequence[torch.Tensor]) -> list[float]:
        """Sums over all ranks. Waits for the device."""
        return self._sum(torch.stack([v.to(torch.float64) for v in values])).tolist()

    def save(self, folder: Path) -> None:
        """Weights, optimizer, schedule. A collective; `folder` must be the same on all ranks."""
        self._engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote, with the same number of processes. A collective."""
        found, _ = self._engine.load_checkpoint(str(folder), tag=_TAG)
        if found is None:
            raise RuntimeError(f"DeepSpeed found no state in {folder}")

    def forget(self) -> None:
        """AdamW as if it had never stepped: moments and their count at zero."""
        for held in self._adamw.state.values():
            for value in held.values():
                value.zero_()

    def take_moments(self, folder: Path) -> None:
        """AdamW's moments from what another engine of the same `layout` saved, and with them the weights,
        which are those that this engine has (bf16: their fp32 masters). Learning rate, schedule and decay
        stay this engine's. A collective."""
        own = [{k: v for k, v in g.items() if k != "params"} for g in self._adamw.param_groups]
        found, _ = self._engine.load_checkpoint(str(folder), tag=_TAG, load_lr_scheduler_states=False)
        if found is None:
            raise RuntimeError(f"DeepSpeed found no state in {folder}")
        for group, said in zip(self._adamw.param_groups, own, strict=True):
            group.update(said)

    def close(self) -> None:
        """Free optimizer and hooks: the next stage of this process makes its own engine."""
        self._engine.destroy()
        self._engine = None

    def _clip_whole(self) -> None:
        """Stage 0 holds whole gradients, already averaged; DeepSpeed would clip them but forget the norm."""
        limit = self._clip or float("inf")
        self._norm = nn.utils.clip_grad_norm_(self._engine.module.parameters(), limit)

    def _here(self, batch: Batch) -> dict[str, Any]:
        """Tensors on the device; numbers stay on the host, where nobody has to wait for them."""
        here = {k: v for k, v in batch.tensors.items() if isinstance(v, int)}
        return here | {
            k: v.to(self.device, non_blocking=True)
            for k, v in batch.tensors.items()
            if isinstance(v, torch.Tensor)
        }

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        held = values.to(self.device, torch.float64)
        if self.split.world > 1:
            dist.all_reduce(held)
        return held


def _fingerprint(module: nn.Module) -> str:
    """Of names and shapes of all weights, and of which are trained."""
    shapes = [(n, tuple(p.shape), p.requires_grad) for n, p in module.named_parameters()]
    return hashlib.blake2b(repr(shapes).encode(), digest_size=8).hexdigest()
