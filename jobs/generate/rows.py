"""What the host keeps of one row: its tokens, when it ends, and what the think budget forces."""

from __future__ import annotations

from typing import Any

from jobs.generate.protocol import Request, Sample, StopCause
from jobs.generate.text import Stream, decode
from jobs.latent.noise import request_key


class Row:
    """One request while it is generated."""

    def __init__(self, request: Request, *, tokenizer: Any, eos: frozenset[int]) -> None:
        self.request = request
        self.key = request_key(request.sampling.seed, request.id, request.index)
        self.ids: list[int] = []
        self.logps: list[float] = []
        self.forced = 0
        self.tokenizer = tokenizer
        self.eos = eos
        self._pending: list[int] = []
        self._marker = request.markers[1] if request.markers else ""
        self._thinking = request.sampling.max_think_tokens is not None and not self._closed_in_prompt()
        self._cut: int | None = None
        watch = request.sampling.stop or self._thinking
        self._stream = Stream(tokenizer) if watch else None
        self._start_forcing()

    @property
    def next_position(self) -> int:
        """Position of the newest token, which the next step feeds."""
        return len(self.request.ids) + len(self.ids) - 1

    def accept(self, token: int, logp: float) -> StopCause | None:
        """Take the drawn token (or the forced one in its place); why the row ends, None if it goes on.

        `logp` belongs to the drawn token; where one is `wanted`, the caller gives the wanted one's.
        """
        if self._pending:
            self._pending.pop(0)
            self.forced += 1
        elif token in self.eos:
            return "eos"
        self.ids.append(token)
        self.logps.append(logp)
        if self._stream is not None and self._watch(token):
            return "stop"
        if len(self.ids) >= self.request.sampling.max_new_tokens:
            return "length"
        self._start_forcing()
        return None

    @property
    def wanted(self) -> int | None:
        """The token that must come next, whatever is drawn."""
        return self._pending[0] if self._pending else None

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
            self.request.id, self.request.index, self.ids, self.logps, cause, self.forced, error, text
        )
