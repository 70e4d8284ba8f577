"""What happens to a request before the engine sees it: does it take latent steps, and which.

Knows of vLLM only `SamplingParams` as an object with fields, so that all of it can be tried without a server.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jobs.generate.thoughts import misfit, thoughts
from jobs.generate.vllm_plugin import wire
from jobs.latent.noise import request_key
from jobs.runtime.errors import JobUserError
from jobs.serve.asked import LATENT, TRACE, Wish, read
from jobs.serve.settling import settled
from latentctl.spec.latent import LatentSpec
from latentctl.spec.sampling import SamplingSpec

_NEVER = {
    "structured_outputs": "a grammar has no place for latent steps",
    "thinking_token_budget": "latent spans are bounded by latent.stop.max_len",
    "repetition_detection": "latent steps would count as repetitions",
}
"""What vLLM offers for text and cannot go with latent steps."""
_BLANKS = 4
"""A chat template writes at most so many tokens of white space behind the marker."""
_LONGEST = 2**20
"""Where nobody bounds an answer."""


class Admitted(NamedTuple):
    """A request as the engine gets it."""

    extra: dict[str, Any] | None
    """Its `extra_args`."""
    ids: list[int]
    """Its prompt; ends with the start marker where the chat template wrote it."""
    latent: bool
    trace: bool


@dataclass(frozen=True)
class Admission:
    """The rules of one server. Every refusal is a ValueError in words."""

    tokenizer: Any
    own: LatentSpec | None
    """What `latent: on` stands for, settled; None: the checkpoint carries nothing."""
    carried: dict[str, Any]
    """The checkpoint's latent.json: what a request leaves unsaid."""
    unasked: bool
    """A request that does not say `latent` gets `own`, where there is any."""
    eos: Collection[int]
    vocabulary: int
    """The model knows the ids below it."""
    why_not: str | None = None
    """Why this server takes no latent steps at all."""

    def admit(self, params: Any, ids: Sequence[int] | None) -> Admitted:
        """`params`: vLLM's SamplingParams; `ids` None: the prompt is not made of tokens."""
        wish = read(params.extra_args)
        if wish.latent is None and self.unasked and self.own is not None and not params.detokenize:
            raise ValueError(
                "beam search, and answers in token ids, take no latent steps, and here every request takes "
                "them that does not say off: start the server with --latent off"
            )
        spec = self._spec(wish)
        others = {k: v for k, v in (params.extra_args or {}).items() if k not in (LATENT, TRACE)}
        if spec is None:
            if wish.trace is not None:
                raise ValueError(f"{TRACE} does nothing here: this request takes no latent steps")
            return Admitted(others or None, list(ids or ()), latent=False, trace=False)
        if ids is None:
            raise ValueError("latent steps follow a prompt of text; this one is of embeddings")
        self._check(params, spec)
        packed, ids = self._packed(params, spec, wish.trace, ids)
        return Admitted({**others, wire.KEY: packed}, ids, latent=True, trace=wish.trace is not None)

    def _spec(self, wish: Wish) -> LatentSpec | None:
        asked = self.unasked and self.own is not None if wish.latent is None else wish.latent
        if asked is False:
            return None
        if self.why_not is not None:
            raise ValueError(self.why_not)
        if asked is True:
            if self.own is None:
                raise ValueError(
                    "latent is on, but the checkpoint carries no latent settings: say them, such as "
                    '{"input": "soft", "stop": {"end_marker": true, "max_len": 512}}'
                )
            return self.own
        try:
            return settled(asked, self.carried)
        except JobUserError as error:
            raise ValueError(_text(error)) from error

    def _check(self, params: Any, spec: LatentSpec) -> None:
        for name, why in _NEVER.items():
            if getattr(params, name, None) is not None:
                raise ValueError(f"{name} does not go with latent steps: {why}; or say latent: off")
        if params.n > 1 and spec.noise is not None:
            raise ValueError(
                f"the {params.n} samples of one request would share their noise: send {params.n} requests"
            )

    def _packed(
        self, params: Any, spec: LatentSpec, trace: int | None, ids: Sequence[int]
    ) -> tuple[dict[str, Any], list[int]]:
        try:
            asked = thoughts(spec, self.tokenizer, trace=trace)
        except JobUserError as error:
            raise ValueError(_text(error)) from error
        if refused := wire.refuses(asked):
            raise ValueError(refused)
        record = wire.placeholder(self.tokenizer, asked.end, self.eos)
        if record is None:
            raise ValueError("the tokenizer has no special token that could stand for a latent step")
        ids, opens = list(ids), False
        if spec.start == "prompt":
            ids, there = self._opened(ids, asked.start)
            opens = not there
        room = (params.max_tokens or _LONGEST) - (len(asked.start) if opens else 0)
        shown = [*ids, *asked.start] if opens else ids
        sampling = SamplingSpec(max_new_tokens=min(max(1, room), _LONGEST))
        if problem := misfit(asked, shown, sampling, self.vocabulary):
            raise ValueError(f"{problem}; or say latent: off")
        key = secrets.randbits(63) if params.seed is None else request_key(params.seed, "", 0)
        return wire.pack(asked, key=key, record=record, opens=opens), ids

    def _opened(self, ids: list[int], start: tuple[int, ...]) -> tuple[list[int], bool]:
        """The prompt cut behind the start marker that it ends with, white space aside; whether it does."""
        count = len(start)
        for at in range(len(ids) - count, max(-1, len(ids) - count - _BLANKS), -1):
            if tuple(ids[at : at + count]) == start:
                rest = ids[at + count :]
                blank = not rest or not self.tokenizer.decode(rest).strip()
                return (ids[: at + count], True) if blank else (ids, False)
        return ids, False


def _text(error: JobUserError) -> str:
    where = f"{error.where}: " if error.where else ""
    return f"{where}{error.message}" + (f" ({error.hint})" if error.hint else "")
