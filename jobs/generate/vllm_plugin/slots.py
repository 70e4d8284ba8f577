"""The latent state of the requests that vLLM runs, on the device; knows neither of vLLM's runners.

A step decides for all rows at once and no value is looked at on the host: a row that has left its last span
is found out from a copy that the device sends along, and costs nothing from then on.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jobs.generate.vllm_plugin.ledger import Ledger, Record
from jobs.generate.vllm_plugin.wire import Asked
from jobs.latent.inputs import push, soft
from jobs.latent.knobs import GAUSSIAN, SOFT, TEXT, Knobs
from jobs.latent.state import State, begin, observe
from jobs.latent.step import Mix, Step, step

_KEPT = 1024
"""So many finished requests are remembered until somebody asks for their story."""


@dataclass(frozen=True, slots=True)
class Part:
    """The positions of one request in the current batch."""

    id: str
    row: int
    """Its place among the batch's requests."""
    base: int
    """Where its positions begin in the flat batch."""
    start: int
    """Its first position, counted from its prompt's first token."""
    count: int
    samples: bool
    """A token is drawn after its last position."""


@dataclass(slots=True)
class _Held:
    """A request that takes latent steps."""

    id: str
    asked: Asked
    slot: int
    prompt: int
    ledger: Ledger
    outputs: int = 0
    """Positions of its answer that were decided."""
    known: int = 0
    """So many of them had been decided before its cache was thrown away: they are fed from the ledger."""
    done: bool = False
    """It writes text from here on, whatever comes."""
    told: bool = False
    """Its story was asked for before it was heard of that it has finished."""
    knobs: Knobs = field(init=False)

    def __post_init__(self) -> None:
        self.knobs = Knobs.of([self.asked.row])

    @property
    def once(self) -> bool:
        """It has one span, at the start of its answer."""
        return self.asked.row.spec.start == "prompt"


class _Group(NamedTuple):
    """Some requests, in the order of their slots."""

    held: list[_Held]
    slots: Tensor
    knobs: Knobs
    record: Tensor
    """(N,) what vLLM keeps of their latent positions."""


class Decision(NamedTuple):
    """What a step decided, before tokens are drawn."""

    group: _Group
    at: Tensor | None
    """Rows of the batch that it is about; None: all, in their order."""
    step: Step
    wanted: Tensor
    """(N,) int64: the token that comes next, whatever is drawn; -1: none."""
    begins: Tensor | None
    """(N,) bool: with it the start marker is whole. None: with none of them."""
    logp: Tensor | None
    """(N,) the model's log-prob of `wanted`, anything where that is -1. None: nobody asks."""


class Slots:
    """`enter` and `leave` as requests come and go; in each step `feed`, `decide`, then `settle`. Ranks of one
    engine must make the same calls in the same order: rows are mixed over all of them in that of the slots.

    `embedding` and `mix`: see `jobs.latent.step.step`; d is the width of what is fed.
    """

    def __init__(self, count: int, width: int, embedding: Tensor, *, mix: Mix = soft) -> None:
        device = embedding.device
        self.embedding, self.mix, self.device = embedding, mix, device
        zero = torch.zeros(count, dtype=torch.int64, device=device)
        window = torch.zeros(count, 0, width, dtype=embedding.dtype, device=device)
        self._state = State._make([*(zero.clone() for _ in State._fields[:-1]), window])
        self._x = torch.zeros(count, width, dtype=embedding.dtype, device=device)
        self._live = torch.zeros(count, dtype=torch.bool, device=device)
        """The newest position of the slot's request is a latent step, fed with its `_x`."""
        self._free = list(range(count))[::-1]
        self._held: dict[str, _Held] = {}
        self._finished: OrderedDict[str, Ledger] = OrderedDict()
        self._names: dict[str, str] = {}
        """By the id that a client knows: the id that vLLM made of it."""
        self._group: _Group | None = None
        self._news: deque[tuple[Any, Tensor, list[tuple[_Held, int]]]] = deque()
        self._index: dict[str, tuple[tuple[int, ...], Tensor]] = {}
        self.rebuilt = 0
        """Latent positions that were fed again after a preemption, or tokens among them."""

    def __bool__(self) -> bool:
        return bool(self._held)

    def __contains__(self, id: str) -> bool:
        return id in self._held

    def enter(self, id: str, asked: Asked, *, prompt: int, outputs: int = 0) -> None:
        """A request comes, or comes again after a preemption with the first `outputs` positions of its
        answer kept."""
        before = self._held.get(id)
        ledger = before.ledger if before else self._finished.pop(id, Ledger(asked.row))
        ledger.cut(outputs)
        slot = before.slot if before else self._slot()
        held = _Held(id, asked, slot, prompt, ledger, outputs, outputs)
        self._held[id], self._names[_client(id)] = held, id
        self._group = None
        self._widen(held.knobs.window)
        self._live[slot] = False
        if len(ledger):
            for all_slots, own in zip(self._state, ledger.state(), strict=False):
                all_slots[slot] = own
        else:
            self._begin(held)
        held.done = outputs > len(ledger)

    def resume(self, id: str, outputs: int) -> None:
        """A request that is still held goes on from an empty cache, as `enter` says."""
        held = self._held[id]
        self.enter(id, held.asked, prompt=held.prompt, outputs=outputs)

    def leave(self, id: str) -> None:
        """The request has finished, or vLLM took its cache away; its story is kept for a while."""
        held = self._held.pop(id, None)
        if held is None:
            return
        self._group = None
        self._free.append(held.slot)
        if held.told:
            return
        self._finished[id] = held.ledger
        while len(self._finished) > _KEPT:
            oldest, _ = self._finished.popitem(last=False)
            self._names.pop(_client(oldest), None)

    def pop(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """{id: {"causes", "thoughts"}} of requests whose answers are whole; what was held of them is gone."""
        return {id: ledger.story() for id in ids if (ledger := self._ledger(id)) is not None}

    def feed(self, x: Tensor, parts: Sequence[Part]) -> None:
        """Before the forward pass: put latent inputs into `x` (T, d), the batch's token embeddings."""
        newest: list[tuple[int, _Held]] = []
        for part in parts:
            held = self._held.get(part.id)
            if held is None:
                continue
            if part.start < held.prompt + held.known:
                self._feed_again(x, part, held)
            elif not held.done and held.outputs:
                newest.append((part.base, held))
        if newest:
            newest.sort(key=lambda pair: pair[1].slot)
            slots = self._take_index("fed slots", [held.slot for _, held in newest])
            places = self._take_index("fed places", [base for base, _ in newest])
            x[places] = torch.where(self._live[slots][:, None], self._x[slots], x[places])

    def decide(
        self,
        logits: Tensor,
        hidden: Tensor,
        parts: Sequence[Part],
        *,
        every: Tensor | None = None,
        scored: bool = True,
    ) -> Decision | None:
        """After the forward pass, before tokens are drawn: what each request's next position is.

        `logits` (R, V) and `hidden` (R, d) of the last positions, which stay as they are, and may be written
        over afterwards; `every` (T, d): the hidden states of all positions, None only where each request has
        one; `scored`: `settle` will be given log-probs. None where no request takes part.
        """
        self._hear()
        self._look_back(hidden, every, parts)
        mine: list[tuple[_Held, int]] = []
        for part in parts:
            held = self._held.get(part.id)
            if held is None or not part.samples:
                continue
            held.outputs += 1
            if not held.done:
                mine.append((held, part.row))
        if not mine:
            return None
        mine.sort(key=lambda pair: pair[0].slot)
        group = self._of([held for held, _ in mine])
        rows = [row for _, row in mine]
        at = None if rows == list(range(len(logits))) else self._take_index("rows", rows)
        own = (logits if at is None else logits[at]).float()
        last = hidden if at is None else hidden[at]
        state = self._state.take(group.slots)
        out = step(own, last, state, group.knobs, self.embedding, self.mix)
        opening, begins = self._opening(group.held)
        wanted = out.token if opening is None else torch.where(opening >= 0, opening, out.token)
        logp = None
        if scored:
            logp = own.gather(-1, wanted.clamp(min=0)[:, None]).squeeze(-1) - own.logsumexp(-1)
        return Decision(group, at, out, wanted, begins, logp)

    def settle(self, made: Decision, tokens: Tensor, logps: tuple[Tensor, Tensor] | None = None) -> None:
        """After tokens were drawn: put what vLLM is to keep of each position into `tokens` (R,).

        `logps`: the ids and log-probs (R,) that vLLM reports, corrected where a token is forced.
        """
        group, at, out = made.group, made.at, made.step
        drawn = (tokens if at is None else tokens[at]).long()
        forced = made.wanted >= 0
        token = torch.where(forced, made.wanted, drawn)
        state = observe(token.masked_fill(out.latent | forced, -1), out.state, group.knobs)
        if made.begins is not None:
            state = begin(state, made.begins, group.knobs)
        token = torch.where(out.latent, group.record, token)
        for all_slots, own in zip(self._state, state, strict=True):
            all_slots.index_copy_(0, group.slots, own.to(all_slots.dtype))
        self._x.index_copy_(0, group.slots, out.x.to(self._x.dtype))
        self._live.index_copy_(0, group.slots, out.latent)
        _put(tokens, at, token)
        if logps is not None:
            assert made.logp is not None, "decide was told that nobody asks"
            ids, values = logps
            said = values if at is None else values[at]
            _put(ids, at, token)
            _put(values, at, torch.where(forced, made.logp, said))
        record = Record.of(out, state, self._kept(out.x, group))
        for row, one in enumerate(group.held):
            one.ledger.add(record, row)
        self._tell(state, group.held)

    def _opening(self, held: list[_Held]) -> tuple[Tensor | None, Tensor | None]:
        """(N,) tokens of start markers that come next, -1: none; and (N,) bool: it is the last one."""
        places = [one.outputs - 1 for one in held]
        if all(p >= len(one.asked.opening) for p, one in zip(places, held, strict=True)):
            return None, None
        pairs = [(p, one.asked.opening) for p, one in zip(places, held, strict=True)]
        tokens = [opening[p] if p < len(opening) else -1 for p, opening in pairs]
        last = [p == len(opening) - 1 for p, opening in pairs]
        return self._send(torch.tensor(tokens)), self._send(torch.tensor(last))

    def _of(self, held: list[_Held]) -> _Group:
        group = self._group
        if (
            group is None
            or len(group.held) != len(held)
            or any(a is not b for a, b in zip(group.held, held, strict=True))
        ):
            knobs = Knobs.of([one.asked.row for one in held]).to(self.device)
            slots = self._send(torch.tensor([one.slot for one in held]))
            record = self._send(torch.tensor([one.asked.record for one in held]))
            group = self._group = _Group(list(held), slots, knobs, record)
        return group

    def _kept(self, x: Tensor, group: _Group) -> Tensor | None:
        """What must be kept of `x` to feed these positions again."""
        knobs = group.knobs
        told = knobs.kinds <= {SOFT} and GAUSSIAN not in knobs.noises and not knobs.floors
        return None if told else x

    def _begin(self, held: _Held) -> None:
        """The slot's state before the first position of an answer."""
        knobs, slot = held.knobs, held.slot
        before = torch.zeros(1, 0, self._x.shape[1])
        count = torch.tensor([held.prompt - 1])
        fresh = State.start(knobs, before, count)
        for all_slots, own in zip(self._state[:-1], fresh[:-1], strict=True):
            all_slots[slot] = int(own)
        if held.asked.opening:
            self._state.phase[slot] = TEXT
            self._state.valid[slot] = min(held.prompt - 1, knobs.window)

    def _feed_again(self, x: Tensor, part: Part, held: _Held) -> None:
        """Positions whose cache was thrown away are fed what they were fed before."""
        start = max(part.start, held.prompt)
        stop = min(part.start + part.count, held.prompt + held.known)
        if stop <= start:
            return
        at = part.base + start - part.start
        own = slice(at, at + stop - start)
        x[own] = held.ledger.fed(
            start - held.prompt, stop - held.prompt, x[own], self.embedding, self.mix
        ).to(x.dtype)
        self.rebuilt += stop - start

    def _look_back(self, last: Tensor, every: Tensor | None, parts: Sequence[Part]) -> None:
        """Windows take the hidden states of a prompt's positions, but for the last one that a step takes."""
        for part in parts:
            held = self._held.get(part.id)
            if held is None or held.knobs.window == 0 or (part.samples and part.count == 1):
                continue
            if every is None and part.count > 1:
                raise RuntimeError(f"the hidden states of {part.count} positions of {part.id} were not shown")
            states = last[part.row, None] if every is None else every[part.base : part.base + part.count]
            window = self._state.window[held.slot, None]
            for state in states[: part.count - part.samples][-held.knobs.window :]:
                window = push(window, state[None])
            self._state.window[held.slot] = window[0]

    def _widen(self, window: int) -> None:
        have = self._state.window.shape[1]
        if window > have:
            count, _, width = self._state.window.shape
            wider = torch.zeros(count, window, width, device=self.device, dtype=self.embedding.dtype)
            wider[:, :have] = self._state.window
            self._state = self._state._replace(window=wider)

    def _slot(self) -> int:
        if not self._free:  # preempted requests hold theirs
            count = len(self._live)
            self._state = State._make(torch.cat([t, torch.zeros_like(t)]) for t in self._state)
            self._x = torch.cat([self._x, torch.zeros_like(self._x)])
            self._live = torch.cat([self._live, torch.zeros_like(self._live)])
            self._free = list(range(count, 2 * count))[::-1]
        return self._free.pop()

    def _ledger(self, id: str) -> Ledger | None:
        own = self._names.pop(id, id)
        held = self._held.get(own)
        if held is None:
            return self._finished.pop(own, None)
        held.told = True
        return held.ledger

    def _tell(self, state: State, held: list[_Held]) -> None:
        """Send along which requests stand in text, where that may be for good."""
        if not any(one.once for one in held):
            return
        text = state.phase == TEXT
        now = [(one, one.outputs) for one in held]
        if self.device.type == "cpu":
            self._news.append((None, text, now))
            return
        event = torch.cuda.Event()
        copy = text.to("cpu", non_blocking=True)
        event.record()
        self._news.append((event, copy, now))

    def _hear(self) -> None:
        """Requests that have left their only span take no further part."""
        while self._news and (self._news[0][0] is None or self._news[0][0].query()):
            _, text, then = self._news.popleft()
            for (one, outputs), there in zip(then, text.tolist(), strict=True):
                one.done |= there and one.once and outputs > len(one.asked.opening)

    def _take_index(self, name: str, values: list[int]) -> Tensor:
        """`values` on the device; sent once while they stay the same."""
        key = tuple(values)
        if name not in self._index or self._index[name][0] != key:
            self._index[name] = key, self._send(torch.tensor(values))
        return self._index[name][1]

    def _send(self, values: Tensor) -> Tensor:
        if self.device.type == "cpu":
            return values
        return values.pin_memory().to(self.device, non_blocking=True)


def _client(id: str) -> str:
    """vLLM appends a dash and eight characters to the ids of its clients."""
    return id[:-9] if id[-9:-8] == "-" else id


def _put(whole: Tensor, at: Tensor | None, values: Tensor) -> None:
    if at is None:
        whole.copy_(values)
    else:
        whole[at] = values.to(whole.dtype)
