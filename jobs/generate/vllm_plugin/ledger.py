"""What was decided at each position of a request: enough to tell its story, and to feed it again."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from jobs.generate.trace import Trace
from jobs.latent.actions import Actions, pack_actions, stores_inputs
from jobs.latent.knobs import CAUSES, Row
from jobs.latent.state import State
from jobs.latent.step import Draw, Mix, Step


class Record(NamedTuple):
    """One decoding step of N rows. Tensors stay where they are."""

    latent: Tensor
    """(N,) bool: the position is a latent step."""
    cause: Tensor
    """(N,) index in CAUSES of why a span ended here, 0: none did."""
    thought: Draw
    state: State
    """After the step; its window is left out."""
    x: Tensor | None
    """(N, d) what the position is fed; None: `thought` says it all."""

    @staticmethod
    def of(out: Step, state: State, x: Tensor | None) -> Record:
        """In types that need less room."""
        thought = out.thought
        small = thought._replace(ids=thought.ids.int(), weights=thought.weights.float(), x=thought.x.float())
        return Record(out.latent, out.cause, small, state._replace(window=state.window[:, :0]), x)


class Ledger:
    """The positions of one request's answer, in order. What follows its last span is left out."""

    def __init__(self, row: Row) -> None:
        self.trace, self.record = row.trace, row.record
        self.vectors = stores_inputs(row.spec, row.disturbance)
        self._steps: list[tuple[Record, int]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, record: Record, row: int) -> None:
        self._steps.append((record, row))

    def cut(self, length: int) -> None:
        """Forget all but the first `length` positions: they were not kept."""
        del self._steps[length:]

    def state(self) -> list[Tensor]:
        """The small tensors of `State` after the last position, each of one value."""
        record, row = self._steps[-1]
        return [t[row] for t in record.state[:-1]]

    def fed(self, start: int, stop: int, tokens: Tensor, embedding: Tensor, mix: Mix) -> Tensor:
        """(stop - start, d): what these positions of the answer are fed. `tokens` (stop - start, d): the
        embeddings of their token ids, kept where a position is a token."""
        out = []
        for at, own in zip(range(start, min(stop, len(self))), tokens, strict=False):
            record, row = self._steps[at]
            if record.x is not None:
                x = record.x[row]
            else:
                x = mix(record.thought.weights[row, None], record.thought.ids[row, None], embedding)[0]
            out.append(torch.where(record.latent[row], x, own))
        return torch.cat([torch.stack(out), tokens[len(out) :]]) if out else tokens

    def story(self) -> dict[str, Any]:
        """Read it all: why each span ended, as plain values the trace and packed all that a training needs,
        where they were asked for."""
        actions = self._actions() if self.record else None
        if not self._steps:
            return {"causes": [], "thoughts": [] if self.trace is not None else None, "actions": actions}
        cause = torch.stack([record.cause[row] for record, row in self._steps]).tolist()
        return {
            "causes": [CAUSES[c] for c in cause if c],
            "thoughts": None if self.trace is None else self._thoughts(self.trace),
            "actions": actions,
        }

    def _actions(self) -> bytes:
        """All latent steps, packed: they may have to cross into another process."""
        there = [step for step, latent in zip(self._steps, self.latent(), strict=True) if latent]
        steps = [(r.thought, r.thought.weights if r.x is None else r.x, row) for r, row in there]
        return pack_actions(Actions.of(steps, fed=self.vectors))

    def latent(self) -> list[bool]:
        """Which positions are latent steps."""
        if not self._steps:
            return []
        return torch.stack([record.latent[row] for record, row in self._steps]).tolist()

    def _thoughts(self, top: int) -> list[list[Any]]:
        trace = Trace(top)
        for (record, row), there in zip(self._steps, self.latent(), strict=True):
            if there:
                trace.add(record.thought, row)
        return [[t.entropy, list(t.ids), list(t.weights), t.mass, t.noised] for t in trace.thoughts()]
