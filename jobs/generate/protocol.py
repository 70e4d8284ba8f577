"""What every engine offers, and what goes in and comes out. `latentctl`'s eval and (later) RL know only
this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from latentctl.spec.sampling import SamplingSpec

StopCause = Literal["eos", "stop", "length", "error"]
"""`eos`: the model ended; `stop`: a stop text; `length`: max_new_tokens reached (truncated); `error`:
see `error`."""


@dataclass(frozen=True, slots=True)
class Request:
    """One sample asked of an engine. `index` counts the samples of one problem."""

    id: str
    index: int
    ids: list[int]
    """Prompt token ids, unpadded."""
    sampling: SamplingSpec
    markers: tuple[str, str] | None = None
    """What opens and closes the reasoning; the think budget forces the second. None: no reasoning to
    bound."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished sample."""

    id: str
    index: int
    ids: list[int]
    """Generated token ids, without the prompt, without the end-of-sequence token."""
    logps: list[float]
    """Log-prob of each generated token under the distribution it was drawn from before filters, at
    temperature 1."""
    cause: StopCause
    forced: int = 0
    """How many tokens were forced by the think budget rather than drawn."""
    error: str | None = None
    text: str = ""
    """The decoded `ids`, special tokens shown; after `stop`, cut before the stop text."""


class Engine(Protocol):
    """Generates. Samples come as each finishes, in no promised order."""

    name: str

    def refuses(self, request: Request) -> str | None:
        """At admission: why this request cannot be served, in words; None if it can."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample]: ...

    def score(self, items: Iterable[tuple[list[int], list[int]]]) -> Iterator[list[float]]:
        """Teacher-forced log-probs of (prompt ids, continuation ids): one list per item, in order."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


class EngineInfo(NamedTuple):
    """For result.json."""

    name: str
    version: str
    device: str
    extra: dict[str, Any]
