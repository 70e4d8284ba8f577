"""What every engine offers, and what goes in and comes out. `latentctl`'s eval and (later) RL know only
this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from latentctl.spec.disturbance import DisturbanceSpec
from latentctl.spec.latent import LatentSpec
from latentctl.spec.sampling import SamplingSpec
from latentctl.spec.tree import TreeSpec

if TYPE_CHECKING:
    from torch import Tensor

    from jobs.latent.actions import Actions

StopCause = Literal["eos", "stop", "length", "error"]
"""`eos`: the model ended; `stop`: a stop text; `length`: max_new_tokens reached (truncated); `error`:
see `error`."""


LatentCause = Literal["fixed", "end_marker", "entropy", "max_len", "budget"]
"""Why a latent span ended; `budget`: max_new_tokens was reached inside it."""


@dataclass(frozen=True, slots=True)
class Thoughts:
    """How a request takes latent steps. Made by `jobs.generate.thoughts`."""

    spec: LatentSpec
    """Settled: input, markers, start and stop are said."""
    start: tuple[int, ...]
    """Token ids of the start marker. `spec.start: prompt`: the request's prompt ends with them already."""
    end: tuple[int, ...]
    """Token ids of the end marker, forced when a span ends."""
    token: int | None = None
    """Id of the latent token, where the tokenizer has one: `pause` feeds its embedding."""
    fixed: int | None = None
    """So many latent steps: `stop.fixed`, or `stop.per_step` worked out for this problem."""
    trace: int | None = None
    """None: nothing is recorded; n: of each latent step the entropy and the n most likely tokens."""
    disturbance: DisturbanceSpec | None = None
    """When `spec.noise` falls, its threshold a number; None: on every latent step."""
    record: bool = False
    """Everything that a training needs of each latent step comes with the sample (`Sample.actions`)."""


@dataclass(frozen=True, slots=True)
class Thought:
    """One latent step, as it was recorded. Holds for every kind of input."""

    entropy: float
    """In nats, of the whole distribution at this step, before filters (see `EntropyStop.on`)."""
    ids: tuple[int, ...]
    """The most likely tokens (`soft`: those mixed, in the order of their weight), most likely first."""
    weights: tuple[float, ...]
    """Their probabilities at temperature 1 (`soft`: the weights with which they were mixed)."""
    mass: float
    """`soft`: probability mass of the tokens that were mixed, before renormalisation; else 1."""
    noised: bool = False


class Branch(NamedTuple):
    """How a searched row descends (`jobs.generate.tree`)."""

    parent: int | None
    """Index of the sample that it left; None: the first row of its problem."""
    birth: int
    """Tokens that it shares with it."""
    prob: float
    """Of the token at which it left, at temperature 1."""
    duplicate: bool
    """A double of the first row, where fewer were found than asked."""


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
    thoughts: Thoughts | None = None
    """None: text alone."""
    tree: TreeSpec | None = None
    """Search the rows of this problem (all its requests say so) instead of sampling them. The engine
    transformers alone, text alone."""
    tempered: bool = False
    """Log-probs are those at the temperature of `sampling` instead of 1 (vLLM's: after filters too)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished sample."""

    id: str
    index: int
    ids: list[int]
    """Generated token ids, without the prompt, without the end-of-sequence token."""
    logps: list[float]
    """Log-prob of each generated token under the distribution it was drawn from before filters, at
    temperature 1 (see `Request.tempered`)."""
    cause: StopCause
    forced: int = 0
    """How many tokens were forced rather than drawn: by the think budget or at the end of a latent span."""
    error: str | None = None
    text: str = ""
    """The decoded `ids`, special tokens shown; after `stop`, cut before the stop text."""
    latents: int = 0
    """Latent steps taken. They count against `max_new_tokens`."""
    latent_cause: LatentCause | None = None
    """Why the last latent span ended; None where there was none."""
    spans: tuple[tuple[int, int], ...] = ()
    """For each latent span: how many of `ids` stand before it, and its latent steps."""
    marker_tokens: int = 0
    """How many of `ids` are markers around latent spans: not visible text."""
    thoughts: tuple[Thought, ...] | None = None
    """The trace of all spans, where the request asked for it."""
    version: int = 0
    """Of the weights that it was generated with (see `Engine.load`)."""
    end: tuple[int, float] | None = None
    """The end-of-sequence token that was drawn, and its log-prob as in `logps`; None where `cause` is not
    "eos"."""
    forced_at: tuple[int, ...] = ()
    """Places in `ids` of tokens that were forced, not drawn: `forced` of them."""
    actions: Actions | None = None
    """All latent steps of all spans, where the request asked to `record`."""
    branch: Branch | None = None
    """None: it was not searched."""


class EngineInfo(NamedTuple):
    """For result.json."""

    name: str
    version: str
    """Of the library that the engine stands on."""
    device: str
    extra: dict[str, Any]


class Engine(Protocol):
    """Generates. Samples come as each finishes, in no promised order."""

    name: str
    version: int
    """Of the weights in use; 0 until others were loaded."""
    tokens: int
    """Generated so far, over all calls."""
    on_step: Callable[[int], bool] | None
    """Called after each decoding step with `tokens`; True ends `generate` early."""

    def info(self) -> EngineInfo: ...

    def refuses(self, request: Request) -> str | None:
        """At admission: why this request cannot be served, in words; None if it can."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Sample]: ...

    def score(self, items: Iterable[tuple[list[int], list[int]]]) -> Iterator[list[float]]:
        """Teacher-forced log-probs of (prompt ids, continuation ids): one list per item, in order."""
        ...

    def load(self, weights: Path | Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take new weights: a folder of safetensors, or names (those of transformers, adapters merged, tied
        weights once) and tensors, which are copied. Nothing computed with the old ones is used again.

        Raises JobUserError, and the old weights stay in use, where names or shapes are not the model's, the
        version is lower than `version`, requests are under way or the engine sleeps. What fails later leaves
        it without weights: it answers nothing until a load went well.
        """
        ...

    def sleep(self, *, keep: bool = True) -> None:
        """Free what can be freed until `wake`; asked meanwhile it raises JobUserError. Without `keep` the
        weights may be freed too, and new ones must come before it is asked again."""
        ...

    def wake(self) -> None: ...

    def close(self) -> None:
        """Free the memory."""
        ...
