"""The rows of a batch that are in a latent span, or may come to one, with their state on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from jobs.generate.protocol import LatentCause
from jobs.generate.rows import Row
from jobs.latent import knobs as latent
from jobs.latent.knobs import CAUSES, LATENT, Knobs
from jobs.latent.state import State, observe
from jobs.latent.step import step


class Spans:
    """A view of some rows of a batch: their knobs, their state, and what those that think are fed next.

    `places`: where each of them stands among the batch's rows, ascending.
    """

    def __init__(
        self, rows: list[Row], places: list[int], batch: int, state: State, x: Tensor, embedding: Tensor
    ) -> None:
        self.rows, self.places, self.state, self.x, self.embedding = rows, places, state, x, embedding
        self.knobs = Knobs.of([_settings(row) for row in rows], embedding.device)
        self.index = None if len(places) == batch else torch.tensor(places, device=embedding.device)
        """None: all rows of the batch, in their order."""
        self.listens = any(row.waits for row in rows)

    @staticmethod
    def begin(rows: Sequence[Row], states: Tensor, embedding: Tensor) -> Spans | None:
        """Of the rows (all new) those that take latent steps; `states` (rows, m, d): the last hidden states
        of their prompts, newest first. None where there is no such row."""
        places = [i for i, row in enumerate(rows) if row.watched]
        if not places:
            return None
        mine = [rows[i] for i in places]
        knobs = Knobs.of([_settings(row) for row in mine], embedding.device)
        count = torch.tensor([len(row.request.ids) - 1 for row in mine], device=embedding.device)
        before = states[torch.tensor(places, device=embedding.device), 1:]
        x = embedding.new_zeros(len(mine), embedding.shape[1])
        return Spans(mine, places, len(rows), State.start(knobs, before, count), x, embedding)

    @staticmethod
    def gathered(parts: Sequence[Spans | None], rows: Sequence[Row]) -> Spans | None:
        """Those rows of `parts` that still may think, placed as they stand in `rows`."""
        there = [part for part in parts if part is not None]
        held = {id(row): i for i, row in enumerate(row for part in there for row in part.rows)}
        places = [i for i, row in enumerate(rows) if row.watched and id(row) in held]
        if not places:
            return None
        first = there[0]
        take = torch.tensor([held[id(rows[i])] for i in places], device=first.embedding.device)
        state = State.join([part.state for part in there]).take(take)
        x = torch.cat([part.x for part in there])[take]
        return Spans([rows[i] for i in places], places, len(rows), state, x, first.embedding)

    @property
    def reads(self) -> bool:
        """The next step needs logits."""
        return self.knobs.reads

    def step(self, logits: Tensor | None, hidden: Tensor) -> list[int]:
        """Take the positions just computed: `logits` (batch, V) and `hidden` (batch, d) of all rows.

        Returns the places of the rows whose next position is a latent step; rows whose span ended are told.
        """
        if self.index is not None:
            hidden = hidden[self.index]
            logits = logits[self.index] if logits is not None and self.reads else None
        out = step(logits, hidden, self.state, self.knobs, self.embedding)
        self.state, self.x = out.state, out.x
        thinks, causes = torch.stack([out.latent.long(), out.cause]).tolist()
        thinking = []
        for i, (row, place) in enumerate(zip(self.rows, self.places, strict=True)):
            if thinks[i]:
                thinking.append(place)
                if row.trace is not None:
                    row.trace.add(out.thought, i)
                if row.recording is not None:
                    row.recording.add(out.thought, out.x, i)
            elif causes[i]:
                row.close(cast(LatentCause, CAUSES[causes[i]]))
        return thinking

    def sound(self, place: int) -> bool:
        """What this row would be fed next is finite."""
        return bool(self.x[self.places.index(place)].isfinite().all())

    def listen(self, tokens: dict[int, int]) -> set[int]:
        """After these tokens (by place) were drawn as text: the places whose start marker is now complete."""
        if not self.listens:
            return set()
        heard = [tokens.get(place, -1) for place in self.places]
        self.state = observe(torch.tensor(heard, device=self.embedding.device), self.state, self.knobs)
        phases = self.state.phase.tolist()
        return {
            place
            for place, row, phase in zip(self.places, self.rows, phases, strict=True)
            if phase == LATENT and row.phase != LATENT
        }

    def feed(self, x: Tensor) -> Tensor:
        """`x` (batch, d) of token embeddings, with the latent inputs in their rows."""
        mine = [i for i, row in enumerate(self.rows) if row.thinks]
        if mine:
            x[torch.tensor([self.places[i] for i in mine], device=x.device)] = self.x[mine]
        return x


def _settings(row: Row) -> latent.Row:
    asked = row.request.thoughts
    assert asked is not None, "a row without thoughts has no latent settings"
    return latent.Row(
        asked.spec,
        asked.end,
        asked.start,
        asked.fixed,
        asked.token,
        row.key,
        asked.trace,
        asked.disturbance,
        asked.record,
    )
