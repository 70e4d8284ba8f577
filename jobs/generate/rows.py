"""What the host keeps of one row: its tokens and latent spans, when it ends, and what is forced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.generate.protocol import LatentCause, Request, Sample, StopCause, Thought
from jobs.generate.text import Stream, decode
from jobs.generate.thoughts import last_step
from jobs.generate.trace import Recording, Trace
from jobs.latent.actions import Actions
from jobs.latent.knobs import CLOSING, LATENT, TEXT
from jobs.latent.noise import request_key


class Row:
    """One request while it is generated.

    A position of its answer is a token (`accept`) or a latent step (`think`). In the phase `latent` the next
    position is a latent step unless the span is `close`d; then, in the phase `closing`, the tokens of the end
    marker are forced one by one.
    """

    def __init__(self, request: Request, *, tokenizer: Any, eos: frozenset[int]) -> None:
        self.request = request
        self.key = request_key(request.sampling.seed, request.id, request.index)
        self.ids: list[int] = []
        self.logps: list[float] = []
        self.forced = 0
        self.tokenizer = tokenizer
        self.eos = eos
        self.phase = TEXT
        self.latents = 0
        self.thinks = False
        """The newest position is a latent step, not a token."""
        asked = request.thoughts
        self.waits = asked is not None and asked.spec.start == "model"
        """A latent span begins wherever the start marker is written."""
        self.trace = Trace(asked.trace) if asked is not None and asked.trace is not None else None
        self.recording = Recording(asked) if asked is not None and asked.record else None
        self._most = last_step(asked) if asked is not None else 0
        self._spans: list[tuple[int, int]] = []
        self._latent_cause: LatentCause | None = None
        self._told: tuple[Thought, ...] | None = None
        self._acted: Actions | None = None
        self._end: tuple[int, float] | None = None
        self._forced_at: list[int] = []
        self._marker_tokens = 0
        self._to_close = 0
        self._pending: list[int] = []
        self._marker = request.markers[1] if request.markers else ""
        self._thinking = request.sampling.max_think_tokens is not None and not self._closed_in_prompt()
        self._cut: int | None = None
        watch = request.sampling.stop or self._thinking
        self._stream = Stream(tokenizer) if watch else None
        if asked is not None and not self.waits:
            self._open()
        self._start_forcing()

    @property
    def next_position(self) -> int:
        """Position of the newest token or latent step, which the next step feeds."""
        return len(self.request.ids) + len(self.ids) + self.latents - 1

    @property
    def watched(self) -> bool:
        """In a latent span, or one may still begin."""
        return self.waits or self.phase != TEXT

    @property
    def goes_on(self) -> bool:
        """In a latent span that no count ends at the newest position."""
        return self.phase == LATENT and self._spans[-1][1] < self._most

    def accept(self, token: int, logp: float, *, opens: bool = False) -> StopCause | None:
        """Take the drawn token (or the forced one in its place); why the row ends, None if it goes on.

        `logp` belongs to the drawn token; where one is `wanted`, the caller gives the wanted one's. `opens`:
        the token ends a start marker, a latent span begins.
        """
        if self._to_close:
            self._marker_tokens += 1
            self._force()
            self._to_close -= 1
            if not self._to_close:
                self.phase = TEXT
        elif self._pending:
            self._pending.pop(0)
            self._force()
        elif token in self.eos:
            self._end = token, logp
            return "eos"
        self.thinks = False
        self.ids.append(token)
        self.logps.append(logp)
        if self._stream is not None and self._watch(token):
            return "stop"
        if opens:
            self._open()
        if self._full:
            return "length"
        self._start_forcing()
        return None

    def think(self) -> StopCause | None:
        """Take a latent step; `length` where it was the last position of the budget."""
        before, steps = self._spans[-1]
        self._spans[-1] = before, steps + 1
        self.latents += 1
        self.thinks = True
        if not self._full:
            return None
        self._latent_cause = "budget"
        return "length"

    def close(self, cause: LatentCause | None) -> None:
        """The span ended: the tokens of the end marker come next. None: `tell` will say why it did."""
        thoughts = self.request.thoughts
        assert thoughts is not None, "a row without thoughts has no span"
        self._latent_cause = cause
        self._to_close = len(thoughts.end)
        self.phase = CLOSING

    def tell(
        self,
        causes: Sequence[LatentCause],
        thoughts: Sequence[Thought] | None,
        actions: Actions | None = None,
    ) -> None:
        """What was recorded elsewhere, and comes when the row has ended: why each span was closed, the trace,
        and what a training needs of each step. Each may hold more than the row took."""
        closed = len(self._spans) - (self.phase == LATENT)
        if closed and self._latent_cause is None:
            self._latent_cause = causes[closed - 1]
        if thoughts is not None:
            self._told = tuple(thoughts[: self.latents])
        if actions is not None:
            self._acted = actions.first(self.latents)

    @property
    def wanted(self) -> int | None:
        """The token that must come next, whatever is drawn."""
        if self._to_close and self.request.thoughts is not None:
            return self.request.thoughts.end[-self._to_close]
        return self._pending[0] if self._pending else None

    @property
    def _full(self) -> bool:
        return len(self.ids) + self.latents >= self.request.sampling.max_new_tokens

    def _force(self) -> None:
        self.forced += 1
        self._forced_at.append(len(self.ids))

    def _open(self) -> None:
        thoughts = self.request.thoughts
        assert thoughts is not None, "a row without thoughts has no span"
        self._spans.append((len(self.ids), 0))
        self._marker_tokens += len(thoughts.start) if self.ids else 0
        self.phase = LATENT

    def _watch(self, token: int) -> bool:
        """Follow the text; True where a stop text ended it."""
        stream = self._stream
        if stream is None:
            return False
        new = stream.push(token)
        if self._thinking and new and stream.find([self._marker], new) >= 0:
            self._thinking = False
        place = stream.find(self.request.sampling.stop, new) if new else -1
        if place >= 0:
            self._cut = place
        return place >= 0

    def _closed_in_prompt(self) -> bool:
        """Some chat templates open and close the reasoning themselves, to switch it off."""
        tail = decode(self.tokenizer, self.request.ids[-32:]).rstrip()
        return not self._marker or tail.endswith(self._marker.strip())

    def _start_forcing(self) -> None:
        """At the end of the think budget: the marker's tokens that the row has not begun to write itself."""
        budget = self.request.sampling.max_think_tokens
        if not self._thinking or self._pending or budget is None or len(self.ids) < budget:
            return
        marker = self.tokenizer.encode(self._marker, add_special_tokens=False)
        begun = next((n for n in range(len(marker) - 1, 0, -1) if self.ids[-n:] == marker[:n]), 0)
        self._pending = list(marker[begun:])
        self._thinking = False

    def sample(self, cause: StopCause, error: str | None = None) -> Sample:
        text = decode(self.tokenizer, self.ids)
        if cause == "stop":
            places = [p for s in self.request.sampling.stop if (p := text.find(s)) >= 0]
            text = (
                text[: min(places)] if places else (self._stream.text[: self._cut] if self._stream else text)
            )
        return Sample(
            self.request.id,
            self.request.index,
            self.ids,
            self.logps,
            cause,
            self.forced,
            error,
            text,
            self.latents,
            self._latent_cause,
            tuple(self._spans),
            self._marker_tokens,
            self._thoughts(),
            end=self._end if cause == "eos" else None,
            forced_at=tuple(self._forced_at),
            actions=self.recording.actions()
            if self.recording is not None and self._acted is None
            else self._acted,
        )

    def _thoughts(self) -> tuple[Thought, ...] | None:
        return self._told if self._told is not None or self.trace is None else self.trace.thoughts()
