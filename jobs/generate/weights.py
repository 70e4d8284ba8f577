"""Weights on their way into a running engine: one by one, under the names that transformers gives them.

Names and shapes are known before the first tensor comes, so that what does not fit is refused while the old
weights are still whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jobs.generate import weight_files
from jobs.runtime.errors import JobUserError

Shapes = Mapping[str, tuple[int, ...]]
Source = Path | Iterable[tuple[str, Tensor]]
"""What an engine loads: a folder of safetensors, or names and tensors. Those that are no `Stream` are held
all at once before the first is used."""
_NAMED = 3


class Stream:
    """Weights that come once, one by one. `where`: the folder that they come from; `model`: whose own they
    are."""

    def __init__(
        self,
        shapes: Shapes,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        where: Path | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.shapes, self.where, self.model = shapes, where, model
        self._tensors = iter(tensors)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Raises RuntimeError where what comes is not what was said."""
        left = dict(self.shapes)
        for name, tensor in self._tensors:
            if left.pop(name, None) != tuple(tensor.shape):
                raise RuntimeError(f"{name} {tuple(tensor.shape)} came, and was not said to come")
            yield name, tensor
        if left:
            raise RuntimeError(f"{_few(sorted(left))} did not come")

    def drain(self) -> None:
        """Take what is left and drop it: other processes may be gathering with this one."""
        for _ in self._tensors:
            pass


def stream(source: Source) -> Stream:
    """Raises JobUserError for a folder without whole safetensors, and for a name that comes twice."""
    if isinstance(source, Stream):
        return source
    if isinstance(source, Path):
        return Stream(weight_files.shapes(source), weight_files.read(source), where=source)
    held: dict[str, Tensor] = {}
    for name, tensor in source:
        if name in held:
            raise JobUserError(f"the weights have {name} twice")
        held[name] = tensor
    return Stream({name: tuple(t.shape) for name, t in held.items()}, held.items())


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """What `model` is made of: parameters and lasting buffers, tied ones once. Without adapters."""
    found = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for prefix, module in model.named_modules():
        for key, buffer in module.named_buffers(recurse=False):
            if key not in module._non_persistent_buffers_set:
                found[f"{prefix}.{key}".lstrip(".")] = tuple(buffer.shape)
    return found


def shapes_of(config: Any, *, trust_remote_code: bool = False) -> dict[str, tuple[int, ...]]:
    """As `shapes`, of the model that transformers would build of `config`; no memory is taken for it."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return shapes(AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code))


def check(expected: Shapes, coming: Stream) -> None:
    """Raises JobUserError where `coming` is not, name by name and shape by shape, what the model is made
    of."""
    found = coming.shapes
    problems: list[str] = []
    if missing := [n for n in expected if n not in found]:
        problems.append(f"{_few(missing)} {'are' if len(missing) > 1 else 'is'} missing")
    if unknown := [n for n in found if n not in expected]:
        problems.append(f"the model has no {_few(unknown)}")
    wrong = [n for n in expected if n in found and tuple(found[n]) != tuple(expected[n])]
    if wrong:
        first = wrong[0]
        said = f"{first} is {tuple(found[first])}, the model's {tuple(expected[first])}"
        problems.append(said + (f" (and {len(wrong) - 1} more shapes differ)" if len(wrong) > 1 else ""))
    if problems:
        raise JobUserError(
            f"these are not the model's weights: {'; '.join(problems)}",
            hint="names are those of transformers, adapters merged, tied weights once",
            where=str(coming.where) if coming.where else None,
        )


def copy_into(model: nn.Module, coming: Stream) -> None:
    """Put `coming` in the place of the model's own weights; those that lie there already are left alone."""
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in coming:
            there = own[name]
            if there.data_ptr() != tensor.data_ptr() or there.stride() != tensor.stride():
                there.copy_(tensor)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
