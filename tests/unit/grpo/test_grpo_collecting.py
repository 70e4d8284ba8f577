"""A set whose rollouts were still under way when the job was told to stop belongs to the next attempt,
whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.generate.protocol import Request, Sample
from jobs.methods.grpo import collecting
from jobs.methods.grpo.collecting import Collector
from jobs.methods.grpo.plan import SetPlan
from jobs.methods.protocol import Preempted
from jobs.rl.rolling import Stopped
from jobs.train.split import Split

PLAN = SetPlan(Split(micro=4, accumulate=1, world=1, rank=0), group=2, minibatches=2, passes=1)


class Roller:
    """Stops in the round `stop_in`."""

    def __init__(self, stop_in: int) -> None:
        self.stop_in, self.asked = stop_in, dict[str, list[Request]]()

    def push(self, model: Any, version: int) -> None: ...

    def ask(self, key: str, requests: Sequence[Request], version: int | None = None) -> None:
        self.asked[key] = list(requests)

    def take(self, key: str) -> Iterator[Sample]:
        if key.endswith(f".{self.stop_in}"):
            raise Stopped("told to stop")
        for request in self.asked[key]:
            yield SimpleNamespace(id=request.id, index=request.index, version=0, cause="eos")  # type: ignore[misc]

    def done(self, key: str) -> None: ...

    def save(self, folder: Path, versions: Collection[int]) -> None: ...

    def load(self, folder: Path) -> None: ...


@pytest.mark.parametrize("stop_in", [0, 1], ids=["at once", "while groups are drawn anew"])
@pytest.mark.parametrize("ahead", [0, 1])
def test_what_was_not_taken_stays_pending_and_the_stream_where_it_was(
    monkeypatch: pytest.MonkeyPatch, stop_in: int, ahead: int
) -> None:
    problems = SimpleNamespace(request=lambda at, index, searched: SimpleNamespace(id=str(at), index=index))
    settings = SimpleNamespace(tree=None, zero_variance="resample", resample_rounds=2, stale=9)
    rewards = SimpleNamespace(names=("correctness",))
    monkeypatch.setattr(
        collecting,
        "rollout",
        lambda place, group, at, request, sample: SimpleNamespace(place=place, sample=sample),
    )
    monkeypatch.setattr(collecting.Table, "gather", lambda *_args, **_more: None)
    roller = Roller(stop_in)
    collector = Collector(PLAN, problems, rewards, roller, settings)  # type: ignore[arg-type]
    monkeypatch.setattr(collector, "_whole", lambda samples: None)
    monkeypatch.setattr(collector, "_reward", lambda came: None)
    monkeypatch.setattr(collector, "_barren", lambda table: [1, 3])
    for number in range(1 + ahead):
        collector.ask(number, 0)
    before = collector.cursor, collector.pending()
    assert before[0] == 4 * (1 + ahead)
    with pytest.raises(Preempted):
        collector.take(0, version=0)
    assert (collector.cursor, collector.pending()) == before

    again = Collector(PLAN, problems, rewards, Roller(stop_in=9), settings)  # type: ignore[arg-type]
    again.restore(*before)
    again.resend()
    assert again.pending() == before[1]
