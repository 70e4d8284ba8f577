"""What one row's latent steps were, recorded without waiting for the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jobs.generate.protocol import Thought, Thoughts
from jobs.latent.actions import Actions, stores_inputs
from jobs.latent.step import Draw


class Recording:
    """All that a training needs of one row's latent steps; read once, when the row ends."""

    def __init__(self, asked: Thoughts) -> None:
        self.fed = stores_inputs(asked.spec, asked.disturbance)
        self._steps: list[tuple[Draw, Tensor, int]] = []

    def add(self, draw: Draw, x: Tensor, row: int) -> None:
        """Row number `row` of `draw`, fed with that of `x`, is the next step."""
        self._steps.append((draw, x, row))

    def actions(self) -> Actions:
        return Actions.of(self._steps, fed=self.fed)


class Trace:
    """Keeps each step's tensors where they are; they are read once, when the row ends."""

    def __init__(self, top: int) -> None:
        self.top = top
        self._steps: list[tuple[Draw, int]] = []

    def add(self, draw: Draw, row: int) -> None:
        """Row number `row` of `draw` is the next step."""
        self._steps.append((draw, row))

    def thoughts(self) -> tuple[Thought, ...]:
        """All steps so far, each with its `top` most likely tokens; those of weight 0 are left out. A step
        whose numbers are not finite, and what follows it, is none: the row is an error."""
        if not self._steps:
            return ()
        ids = [draw.ids[i, : self.top] for draw, i in self._steps]
        weights = torch.cat([draw.weights[i, : self.top].double() for draw, i in self._steps]).tolist()
        flat = torch.cat(ids).tolist()
        entropy = torch.stack([draw.entropy[i] for draw, i in self._steps]).tolist()
        mass = torch.stack([draw.mass[i] for draw, i in self._steps]).tolist()
        noised = torch.stack([draw.noised[i] for draw, i in self._steps]).tolist()
        out, place = [], 0
        for step, own in enumerate(ids):
            if not (math.isfinite(entropy[step]) and math.isfinite(mass[step])):
                break
            pairs = [(flat[j], weights[j]) for j in range(place, place + len(own)) if weights[j] > 0]
            place += len(own)
            tokens = tuple(token for token, _ in pairs)
            shares = tuple(weight for _, weight in pairs)
            out.append(Thought(entropy[step], tokens, shares, mass[step], noised[step]))
        return tuple(out)
