"""One request in vLLM, followed on the host by the ids that come: `jobs.generate.rows.Row` says when it ends.

vLLM is asked for tokens, no more. What it does not know (stop texts, the think budget) is judged here, and a
request may so take several turns in vLLM, each going on where the one before was left.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jobs.generate.protocol import Request, Sample, StopCause, Thought, Thoughts
from jobs.generate.rows import Row
from jobs.generate.vllm_plugin.wire import KEY, pack, placeholder
from jobs.latent.actions import unpack_actions
from jobs.latent.knobs import LATENT, TEXT
from jobs.latent.noise import request_key

_SEED_BITS = 2**63 - 1  # vLLM takes no negative seed
NO_PLACEHOLDER = (
    "the tokenizer has no special token that could stand for a latent step in vLLM: "
    "add <|latent|> to it, or say engine: transformers"
)


def unmarked(asked: Sequence[Thoughts], tokenizer: Any, eos: Collection[int]) -> str | None:
    """Why the latent steps of these settings could not be told from text, in words; None if they can."""
    lacking = any(placeholder(tokenizer, each.end, eos) is None for each in asked)
    return NO_PLACEHOLDER if lacking else None


class Turn(NamedTuple):
    """What vLLM is asked next."""

    prompt: list[int]
    sampling: dict[str, Any]
    """Arguments of vLLM's `SamplingParams`."""


class Followed:
    """A request, its row, and the turns that it takes.

    `vocabulary`: ids from there on are none of the model's. `record`: the id that stands for a latent step.
    """

    def __init__(
        self,
        request: Request,
        *,
        tokenizer: Any,
        eos: frozenset[int],
        vocabulary: int,
        record: int | None = None,
    ) -> None:
        self.request = request
        self.row = Row(request, tokenizer=tokenizer, eos=eos)
        self.record = record
        self.turns = 0
        self.at_once = False
        """This turn is for one forced token."""
        self.fresh = True
        """Nothing came of this turn yet."""
        asked = request.thoughts
        self._start = asked.start if asked is not None else ()
        self._heard: list[int] = []
        fixed = {*asked.start, *asked.end} if asked is not None else set()
        self._ends = sorted(i for i in eos - fixed if i < vocabulary)

    def turn(self) -> Turn:
        """The next turn; the one before is over, or given up."""
        request, row = self.request, self.row
        own = request.sampling
        wanted = row.wanted
        self.at_once = wanted is not None
        said: dict[str, Any] = {
            "temperature": own.temperature,
            "seed": request_key(own.seed, _turn_name(request.id, self.turns), request.index) & _SEED_BITS,
            "max_tokens": 1 if self.at_once else own.max_new_tokens - len(row.ids),
            "logprobs": 0,
            "detokenize": False,
            "skip_clone": True,
        }
        if wanted is not None:
            said["allowed_token_ids"] = [wanted]
        else:
            said |= {"top_k": own.top_k, "top_p": own.top_p, "min_p": own.min_p, "stop_token_ids": self._ends}
        if request.thoughts is not None and self.record is not None:
            packed = pack(request.thoughts, key=row.key, record=self.record, group=request.id)
            said["extra_args"] = {KEY: packed}
        self.turns += 1
        self.fresh = True
        return Turn(request.ids + row.ids, said)

    def take(self, token: int, logp: float) -> StopCause | None:
        """The next position of the answer; why it ends there, None if it goes on."""
        row = self.row
        if row.phase == LATENT:
            if token == self.record:
                return row.think()
            row.close(None)
        opens = row.waits and row.phase == TEXT and self._opens(token)
        return row.accept(token, logp, opens=opens)

    @property
    def thinking(self) -> bool:
        """The next position may be a latent step, of which vLLM knows no log-prob."""
        return self.row.phase == LATENT

    @property
    def turns_over(self) -> bool:
        """What comes next must be asked anew: a token is to be forced that vLLM knows nothing of."""
        return self.at_once or (self.row.phase == TEXT and self.row.wanted is not None)

    def sample(
        self, cause: StopCause, error: str | None = None, told: dict[str, Any] | None = None
    ) -> Sample:
        """`told`: what the plugin recorded of the latent spans."""
        if told is not None:
            thoughts = told["thoughts"]
            trace = None if thoughts is None else [_thought(*each) for each in thoughts]
            actions = told["actions"]
            self.row.tell(told["causes"], trace, None if actions is None else unpack_actions(actions))
        return self.row.sample(cause, error)

    def _opens(self, token: int) -> bool:
        """The text since the last span now ends with the start marker: as `jobs.latent.state.observe` sees
        it."""
        self._heard.append(token)
        del self._heard[: -len(self._start)]
        if tuple(self._heard) != self._start:
            return False
        self._heard = []
        return True


def _turn_name(id: str, turn: int) -> str:
    """Each turn draws numbers of its own."""
    return f"{id}\0{turn}" if turn else id


def _thought(entropy: float, ids: list[int], weights: list[float], mass: float, noised: bool) -> Thought:
    return Thought(entropy, tuple(ids), tuple(weights), mass, noised)
