"""The latent state of vLLM's requests, without vLLM: what a step may not do, and rare turns of events."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jobs.generate.vllm_plugin.slots import Part, Slots
from jobs.generate.vllm_plugin.table import _Sharded
from jobs.generate.vllm_plugin.wire import Asked
from jobs.latent.inputs import soft
from jobs.latent.knobs import Row
from latentctl.spec.latent import LatentSpec

pytestmark = pytest.mark.heavy
V, D, RECORD = 40, 8, 39


def asked(
    input: Any, stop: Any, *, opening: tuple[int, ...] = (), start: str = "prompt", **also: Any
) -> Asked:
    spec = LatentSpec.model_validate({"input": input, "stop": stop, "start": start, "markers": "think"})
    fixed = spec.stop.fixed if spec.stop else None
    return Asked(Row(spec, (30, 31), (28, 29), fixed, 33, **also), RECORD, opening)


def slots(count: int = 4) -> Slots:
    torch.manual_seed(0)
    return Slots(count, D, torch.randn(V, D))


class Looks(TorchDispatchMode):
    """Fails where a tensor's value is asked for on the host."""

    BANNED = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        assert name not in self.BANNED, f"{name}: a GPU would have to be waited for"
        return func(*args, **(kwargs or {}))


INPUTS: list[Any] = [
    {"kind": "soft", "top_p": 0.9, "min_p": 0.01, "temperature": 0.7},
    "hidden",
    {"kind": "contextual", "window": 3, "rescale": True},
    "pause",
]


def step(held: Slots, parts: list[Part], drawn: list[int]) -> list[int]:
    """One step of a batch of which every request has one position, or a prompt of several."""
    flat = sum(p.count for p in parts)
    x, every = torch.randn(flat, D), torch.randn(flat, D)
    held.feed(x, parts)
    logits, tokens = torch.randn(len(parts), V), torch.tensor(drawn)
    last = torch.tensor([p.base + p.count - 1 for p in parts])
    made = held.decide(logits, every[last], parts, every=every)
    if made is not None:
        held.settle(made, tokens, (torch.tensor(drawn), torch.zeros(len(parts))))
    return tokens.tolist()


def test_no_value_is_looked_at_on_the_host_in_a_step() -> None:
    held = slots()
    stop = {"end_marker": True, "entropy": {"threshold": 0.5, "patience": 2}, "max_len": 5}
    for i, input in enumerate(INPUTS):
        held.enter(f"r{i}-aaaaaaaa", asked(input, stop, trace=3, key=i), prompt=4)
    ids = [f"r{i}-aaaaaaaa" for i in range(4)]
    step(held, [Part(id, i, 4 * i, 0, 4, True) for i, id in enumerate(ids)], [1, 2, 3, 4])
    with Looks():
        for n in range(7):
            step(held, [Part(id, i, i, 4 + n, 1, True) for i, id in enumerate(ids)], [1, 2, 3, 4])


def test_the_tokens_of_a_marker_that_the_prompt_lacks_are_forced_first() -> None:
    held = slots()
    held.enter("a", asked("hidden", 2, opening=(28, 29)), prompt=3)
    told = [step(held, [Part("a", 0, 0, 0, 3, True)], [7])]
    told += [step(held, [Part("a", 0, 0, 3 + n, 1, True)], [7]) for n in range(6)]
    assert [t for (t,) in told] == [28, 29, RECORD, RECORD, 30, 31, 7]
    assert held.pop(["a"])["a"]["causes"] == ["fixed"]


def test_a_forced_tokens_log_prob_is_the_models_own_whatever_the_sampler_made_of_the_logits() -> None:
    held = slots()
    held.enter("a", asked("hidden", 0), prompt=3)
    logits = torch.randn(1, V)
    wanted = logits.log_softmax(-1)[0, 30]
    made = held.decide(logits, torch.randn(1, D), [Part("a", 0, 0, 0, 3, True)], every=torch.randn(3, D))
    assert made is not None
    logits.div_(0.2)  # a temperature
    tokens, told = torch.tensor([7]), (torch.tensor([7]), torch.tensor([-1.0]))
    held.settle(made, tokens, told)
    assert (tokens.tolist(), told[0].tolist()) == ([30], [30])
    assert told[1][0] == pytest.approx(float(wanted), abs=1e-5)


def test_a_request_that_left_its_span_takes_no_further_part() -> None:
    held = slots()
    held.enter("a", asked("hidden", 1), prompt=3)
    step(held, [Part("a", 0, 0, 0, 3, True)], [7])
    for n in range(5):
        step(held, [Part("a", 0, 0, 3 + n, 1, True)], [7])
    assert len(held._held["a"].ledger) == 3, "one latent step, two tokens of the end marker"


def test_what_was_decided_but_not_kept_is_forgotten() -> None:
    """A preemption may come while a step runs whose token is thrown away: it is decided again."""
    held = slots()
    held.enter("a", asked("hidden", 5), prompt=3)
    step(held, [Part("a", 0, 0, 0, 3, True)], [7])
    for n in range(3):
        step(held, [Part("a", 0, 0, 3 + n, 1, True)], [7])
    fed = held._x[held._held["a"].slot].clone()
    held.leave("a")
    held.enter("a", asked("hidden", 5), prompt=3, outputs=3)
    x = torch.zeros(6, D)
    held.feed(x, [Part("a", 0, 0, 0, 6, True)])
    assert (x[:3] == 0).all()
    assert (x[3:] != 0).any(-1).all()
    assert not torch.equal(x[5], fed), "the fourth step was cut off"
    ledger = held._held["a"].ledger
    assert len(ledger) == 3
    assert int(held._state.steps[held._held["a"].slot]) == 3


def test_more_requests_than_slots_find_room() -> None:
    held = slots(2)
    for i in range(5):
        held.enter(str(i), asked("hidden", 2, key=i), prompt=2)
    parts = [Part(str(i), i, 2 * i, 0, 2, True) for i in range(5)]
    assert step(held, parts, [7] * 5) == [RECORD] * 5


def test_text_between_latent_requests_is_left_alone() -> None:
    held = slots()
    held.enter("b", asked("hidden", 2), prompt=2)
    parts = [Part("a", 0, 0, 0, 3, True), Part("b", 1, 3, 0, 2, True), Part("c", 2, 5, 0, 1, True)]
    assert step(held, parts, [7, 8, 9]) == [7, RECORD, 9]


def test_stories_that_nobody_asks_for_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.generate.vllm_plugin.slots._KEPT", 3)
    held = slots()
    for i in range(6):
        held.enter(f"{i}-12345678", asked("hidden", 2), prompt=2)
        step(held, [Part(f"{i}-12345678", 0, 0, 0, 2, True)], [7])
        held.leave(f"{i}-12345678")
    assert sorted(held.pop([str(i) for i in range(6)])) == ["3", "4", "5"]
    assert held.pop(["3"]) == {}
    assert not held._names


def test_nothing_is_held_of_a_request_whose_story_was_told_before_it_left() -> None:
    held = slots()
    held.enter("a-12345678", asked("hidden", 2), prompt=2)
    step(held, [Part("a-12345678", 0, 0, 0, 2, True)], [7])
    assert held.pop(["a"])["a"]["causes"] == []
    held.leave("a-12345678")
    assert not held
    assert not held._finished
    assert not held._names


@pytest.mark.parametrize("ranks", [2, 3])
def test_an_embedding_in_pieces_mixes_as_a_whole_one(ranks: int) -> None:
    torch.manual_seed(1)
    whole, ids = torch.randn(V, D), torch.randint(0, V, (5, 6))
    weights = torch.rand(5, 6).softmax(-1)
    total = torch.zeros(5, D)

    class Shard(_Sharded):
        def __init__(self, start: int, stop: int) -> None:
            self.start, self.stop, self.reduce = start, stop, self._gather

        def _gather(self, part: Tensor) -> Tensor:
            total.add_(part)
            return total

    size = -(-V // ranks)
    for start in range(0, V, size):
        stop = min(V, start + size)
        padded = torch.cat([whole[start:stop], torch.full((3, D), torch.nan)])
        Shard(start, stop)(weights, ids, padded)
    assert torch.allclose(total, soft(weights, ids, whole), atol=1e-6)
