"""Which rollouts a step trains on, and which rank makes them."""

from __future__ import annotations

import pytest

from jobs.methods.grpo.plan import SetPlan
from jobs.train.split import Split


def plans(
    world: int, micro: int, accumulate: int, *, group: int, minibatches: int, passes: int = 1
) -> list[SetPlan]:
    return [
        SetPlan(Split(micro, accumulate, world, rank), group, minibatches, passes) for rank in range(world)
    ]


@pytest.mark.parametrize(
    ("world", "micro", "accumulate", "group", "minibatches"),
    [(1, 4, 1, 2, 1), (2, 2, 2, 4, 3), (4, 1, 2, 8, 2), (2, 3, 1, 3, 2)],
)
def test_ranks_share_out_every_rollout_once(
    world: int, micro: int, accumulate: int, group: int, minibatches: int
) -> None:
    each = plans(world, micro, accumulate, group=group, minibatches=minibatches)
    made = sorted(place for plan in each for place in plan.every)
    assert made == list(range(each[0].rollouts))
    assert {len(plan.every) for plan in each} == {each[0].rollouts // world}


def test_each_pass_goes_through_the_minibatches_in_turn() -> None:
    (plan,) = plans(1, 4, 1, group=2, minibatches=2, passes=2)
    assert plan.updates == 4
    assert [plan.minibatch(step) for step in range(5)] == [
        range(4), range(4, 8), range(4), range(4, 8), range(4),
    ]  # fmt: skip


def test_a_rank_makes_what_it_trains_on() -> None:
    for plan in plans(2, 2, 2, group=4, minibatches=3):
        trained = [place for step in range(plan.updates) for place in plan.mine(step)]
        assert sorted(trained) == sorted(plan.every)


def test_there_are_always_as_many_micro_batches_as_the_engine_accumulates() -> None:
    (plan,) = plans(1, 2, 4, group=2, minibatches=1)
    for left in range(9):
        parts = plan.parts(list(range(left)))
        assert len(parts) == 4
        assert [row for part in parts for row in part] == list(range(left))
        assert max(map(len, parts)) <= 2
