"""The trainer's weights on their way to an engine: plain, one module's at a time, the same from every split.

A trainer has its model in one of several forms (whole, in pieces under ZeRO-3, with adapters); what leaves
here is always what `jobs.models.plain_export` would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from jobs.generate.protocol import Engine
from jobs.generate.weights import Stream
from jobs.models.plain_export import plain_weights
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError


class Pusher(Protocol):
    """Brings a trainer's weights to where rollouts are generated."""

    def push(self, model: nn.Module, version: int) -> None:
        """A collective of all processes of the trainer. When it returns, the weights are where they belong,
        and `model` may change. Raises JobUserError on all of them where they could not be brought."""
        ...


class InProcess:
    """Into the engine that this process holds; None: it holds none and helps to gather."""

    def __init__(self, engine: Engine | None) -> None:
        self.engine = engine

    def push(self, model: nn.Module, version: int) -> None:
        coming = plain_stream(model, keep=self.engine is not None)
        with together(coming):
            if self.engine is not None:
                self.engine.load(coming, version)


class Piece(NamedTuple):
    """One tensor of a plain model."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def plain_stream(model: nn.Module, *, keep: bool = True) -> Stream:
    """The plain weights of `model`, under ZeRO-3 a collective: every process must take all that comes.

    Tensors are the model's own where they can be, and copies on the CPU where they are gathered or merged.
    With `keep` false nothing comes, but the process still takes part.
    """
    shapes = {piece.name: piece.shape for piece in pieces(model)} if keep else {}
    return Stream(shapes, tensors(model, keep=keep), model=model)


def pieces(model: nn.Module) -> Iterator[Piece]:
    """What `tensors` yields, in its order. Gathers nothing."""
    for prefix, unit, tied in _units(model):
        for name, own in _own(unit, tied):
            yield Piece(prefix + name, tuple(getattr(own, "ds_shape", own.shape)), own.dtype)


def tensors(model: nn.Module, *, keep: bool = True) -> Iterator[tuple[str, Tensor]]:
    """The tensors behind `plain_stream`."""
    for prefix, unit, tied in _units(model):
        if _adapted(unit) or any(hasattr(p, "ds_id") for p in unit.parameters()):
            found = plain_weights(unit, keep=keep)
            if keep:
                yield from ((prefix + name, found[name]) for name, _ in _own(unit, tied))
        elif keep:
            yield from ((prefix + name, own.detach()) for name, own in _own(unit, tied))


@contextmanager
def together(coming: Stream | None = None) -> Iterator[None]:
    """Around what this process does (with `coming`): whether it went well is for all to know, and what it
    left of the stream is gathered with the others all the same."""
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
    if coming is not None:
        coming.drain()
    worst = distributed.all_max(float(failed is not None))
    if failed is not None:
        raise failed
    if worst:
        raise JobUserError("another process of the trainer could not bring the weights: see its log")


def _units(model: nn.Module) -> Iterator[tuple[str, nn.Module, set[int]]]:
    """The smallest modules that make up `model`: the start of their weights' names, and which of their
    parameters came before (by id). A module that has weights beside its children's is a unit with them."""
    seen: set[int] = set()

    def walk(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module, set[int]]]:
        if _adapted(module) or any(True for _ in _weights(module, recurse=False)):
            own = {id(p) for p in module.parameters()}
            yield prefix, module, own & seen
            seen.update(own)
            return
        for name, child in module.named_children():
            yield from walk(f"{prefix}{name}.", child)

    yield from walk("", model)


def _adapted(module: nn.Module) -> bool:
    return hasattr(module, "get_base_layer") and hasattr(module, "get_delta_weight")


def _own(unit: Any, tied: set[int]) -> Iterator[tuple[str, Tensor]]:
    """The unit's weights without adapters, but for those that are `tied` to ones before."""
    owner = unit.get_base_layer() if _adapted(unit) else unit
    return ((name, own) for name, own in _weights(owner) if id(own) not in tied)


def _weights(module: nn.Module, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and buffers that are written down with them."""
    yield from module.named_parameters(recurse=recurse)
    for prefix, each in module.named_modules() if recurse else [("", module)]:
        for name, buffer in each.named_buffers(recurse=False):
            if name not in each._non_persistent_buffers_set:
                yield f"{prefix}.{name}".lstrip("."), buffer
