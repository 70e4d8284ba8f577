"""What vLLM records of latent steps is what the other engine records; a replay gives vLLM's log-probs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vllm is not installed")

import torch
from test_engine_latent import latent
from tiny import Both, by_key

from jobs.generate.protocol import Request
from jobs.latent.actions import Actions
from jobs.methods.grpo.objective import GrpoObjective
from jobs.methods.grpo.rows import row_of
from jobs.rl.rollout import Rollout
from jobs.train.objective import Item
from latentctl.spec.disturbance import DisturbanceSpec
from latentctl.spec.grpo import GrpoSettings

pytestmark = pytest.mark.heavy

SOFT = {"kind": "soft", "temperature": 0.9, "max_topk": 8}
CASES: dict[str, tuple[dict[str, Any], DisturbanceSpec | None]] = {
    "quiet": ({"input": SOFT}, None),
    "concrete": (
        {"input": SOFT, "noise": {"kind": "concrete"}},
        DisturbanceSpec(entropy_threshold=1.0, max_ratio=0.7),
    ),
    "multiplex": ({"input": SOFT, "noise": {"kind": "multiplex"}}, None),
    "logits": ({"input": SOFT, "noise": {"kind": "gaussian", "on": "logits"}}, None),
    "floor": ({"input": SOFT, "noise": {"kind": "concrete"}}, DisturbanceSpec(max_ratio=0.5, floor=0.05)),
    "hidden": ({"input": "hidden", "noise": {"kind": "gaussian"}}, DisturbanceSpec(max_ratio=0.5)),
    "contextual": (
        {"input": {"kind": "contextual", "window": 3}, "noise": {"kind": "gaussian"}},
        None,
    ),
}


@pytest.fixture(scope="module")
def engines(both: Callable[..., Both]) -> Both:
    return both("qwen3", latent=True)


def requests(engines: Both, name: str) -> list[Request]:
    said, disturbance = CASES[name]
    found = []
    for i in range(3):
        one = latent(
            engines,
            f"{name}{i}",
            trace=None,
            stop=4,
            sampling={"max_new_tokens": 14, "temperature": 1.0},
            **said,
        )
        assert one.thoughts is not None
        thoughts = replace(one.thoughts, disturbance=disturbance, record=True)
        found += [replace(one, thoughts=thoughts, index=k, tempered=True) for k in range(2)]
    return found


def same(one: Actions, other: Actions) -> None:
    for name in ("kind", "ids", "kept", "disturbed"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("weights", "sigma"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        one.x.masked_fill(~one.kept, 0.0), other.x.masked_fill(~one.kept, 0.0), atol=1e-3, rtol=1e-3
    )
    assert (one.fed is None) == (other.fed is None)
    if one.fed is not None and other.fed is not None:
        torch.testing.assert_close(one.fed, other.fed, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_both_engines_record_the_same_and_a_replay_agrees(engines: Both, name: str) -> None:
    asked = requests(engines, name)
    ours = by_key(engines.vllm.generate(asked))
    theirs = by_key(engines.transformers.generate(asked))
    _, disturbance = CASES[name]
    thoughts = asked[0].thoughts
    assert thoughts is not None
    objective = GrpoObjective(
        GrpoSettings(),
        latent=thoughts.spec,
        disturbance=disturbance,
        start=len(thoughts.start),
        pad=0,
    )
    compared = 0
    for request in asked:
        sample = ours[request.id, request.index]
        other = theirs[request.id, request.index]
        assert sample.error is None
        assert sample.actions is not None
        assert other.actions is not None
        assert len(sample.actions.kind) == sample.latents == 4
        assert sample.forced_at == other.forced_at == tuple(range(len(thoughts.end)))
        same(sample.actions, other.actions)
        batch = objective.collate([Item(row_of(Rollout(0, 0, request.ids, sample)), 0)])
        with torch.no_grad():
            scores = objective.score(engines.transformers.runner.model, batch.tensors)
        assert float((scores["text"] - batch.tensors["engine"]).abs().max()) < 1e-3
        compared += len(scores["text"])
    assert compared > 20


def test_temperatures_other_than_one_need_an_engine_that_was_started_for_them(engines: Both) -> None:
    request = replace(requests(engines, "quiet")[0], thoughts=None)
    hot = replace(request, sampling=request.sampling.model_copy(update={"temperature": 0.7}))
    assert engines.vllm.refuses(request) is None
    assert "temperature of drawing" in str(engines.vllm.refuses(hot))
    assert engines.vllm.refuses(replace(hot, tempered=False)) is None
