"""Loss and gradients of a batch against the slow, obvious way, row by row, in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from coconut_world import PROBLEMS, World, naive_loss

from jobs.data.curriculum import Cut
from jobs.train.objective import Item
from latentctl.spec.latent import ContextualInput, PauseInput, SoftInput
from latentctl.spec.prompt import Markers, PromptSpec

pytestmark = pytest.mark.heavy

LAST = {"stage": 4, "max_stage": 3}
"""Latents by each problem's steps: 6, 2, none and 6."""
LEARNED = [0.6, 0.3, 0.1]


def gradients(world: World) -> dict[str, torch.Tensor]:
    modules = (("model", world.model), ("objective", world.objective))
    found = {}
    for whose, module in modules:
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                found[f"{whose}.{name}"] = parameter.grad.clone()
        module.zero_grad()
    return found


def batch_loss(world: World) -> tuple[torch.Tensor, float]:
    """(sum of the loss, weight) of all problems in one batch, gradients left in the model."""
    batch = world.objective.collate([Item(row, i) for i, row in enumerate(world.rows())])
    outcome = world.objective.loss(world.model, batch.tensors, measure=False)
    (outcome.loss / batch.weight).backward()
    return outcome.loss.detach(), batch.weight


def cuts(world: World) -> list[Cut]:
    return [world.curriculum.train(len(e.steps)) for e in PROBLEMS]


def same(world: World, *, weights: torch.Tensor | None = None) -> None:
    loss, weight = batch_loss(world)
    batched = gradients(world)
    shares = None
    if world.objective.learned is not None:
        shares = world.objective.learned.logits.softmax(-1)
    elif weights is not None:
        shares = weights
    slow = sum(
        naive_loss(world, row, cut, weights=shares)
        for row, cut in zip(world.rows(), cuts(world), strict=True)
    )
    (slow / weight).backward()  # type: ignore[operator]
    assert float(loss) == pytest.approx(float(slow), rel=1e-5)
    naive = gradients(world)
    assert batched.keys() == naive.keys()
    for name, gradient in naive.items():
        torch.testing.assert_close(batched[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("said", [{"stage": 0}, {"stage": 1}, {"stage": 3}, LAST], ids=str)
def test_equals_a_naive_loop(arch: str, said: dict[str, Any]) -> None:
    same(World(arch, **said))


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_a_window_of_several_states(arch: str) -> None:
    spec = ContextualInput(window=3, weights=LEARNED, include="all")
    same(World(arch, input=spec, **LAST), weights=torch.tensor(LEARNED))


def test_learned_window_weights_get_a_gradient() -> None:
    world = World(input=ContextualInput(window=3, weights="learned"), learned=[0.5, 0.25, 0.25], **LAST)
    same(world)
    batch_loss(world)
    assert world.objective.learned is not None
    gradient = world.objective.learned.logits.grad
    assert gradient is not None
    assert gradient.abs().min() > 1e-7


def test_a_learned_token_without_feedback() -> None:
    world = World(input=PauseInput(), **LAST)
    same(world)
    batch_loss(world)
    assert world.span is not None
    assert gradients(world)["model.transformer.wte.weight"][world.span.token].abs().sum() > 1e-5


@pytest.mark.parametrize("input", [None, PauseInput()], ids=["hidden", "pause"])
def test_a_model_that_learns_to_stop(input: Any) -> None:
    markers = Markers(start="<<", end=">>")
    same(World(input=input, dynamic=True, **LAST))
    same(World(input=input, dynamic=True, markers=markers, start_learned=True, **LAST))


def test_a_mixture_of_likely_tokens() -> None:
    same(World(input=SoftInput(top_k=5, temperature=0.7), **LAST))
    same(World("qwen3", input=SoftInput(top_k=3), dynamic=True, **LAST))


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_enough_sweeps_are_the_sequential_pass(arch: str) -> None:
    same(World(arch, schedule="jacobi", sweeps=6, **LAST))
    same(World(arch, schedule="jacobi", sweeps=20, longest=7, **LAST))
    spec = ContextualInput(window=3, weights=LEARNED)
    same(World(arch, schedule="jacobi", sweeps=6, input=spec, **LAST), weights=torch.tensor(LEARNED))


def test_fewer_sweeps_come_closer_one_by_one() -> None:
    exact = float(batch_loss(World(**LAST))[0])
    away = [
        abs(float(batch_loss(World(schedule="jacobi", sweeps=t, **LAST))[0]) - exact) for t in range(1, 7)
    ]
    assert away[0] > 1e-4
    assert away[5] < 1e-4
    assert away[0] > away[2] > away[5]


def test_another_form() -> None:
    same(World(prompt=PromptSpec(form="xml", instruction=False), **LAST))


def test_more_columns_than_any_row_needs_change_nothing() -> None:
    """As under ZeRO-3, where every rank must run the model equally often."""
    alone, wide = World(stage=1), World(stage=1, longest=7)
    loss, _ = batch_loss(alone)
    padded, _ = batch_loss(wide)
    assert float(padded) == pytest.approx(float(loss), rel=1e-6)
    one, other = gradients(alone), gradients(wide)
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_stage_0_is_plain_next_token_prediction_behind_the_markers() -> None:
    """Bit for bit what `sft` computes on the same ids."""
    from jobs.train.text import TextObjective, TextRow

    world = World(stage=0)
    assert world.span is not None
    markers = [*world.span.start, *world.span.end]
    texts = [
        TextRow([*row.prompt, *markers], [i for s in row.steps for i in s] + list(row.answer))
        for row in world.rows()
    ]
    plain = TextObjective(pad=world.objective.pad)
    expected = plain.collate([Item(row, i) for i, row in enumerate(texts)])
    batch = world.objective.collate([Item(row, i) for i, row in enumerate(world.rows())])
    assert batch.weight == expected.weight
    ours = world.objective.loss(world.model, batch.tensors, measure=True)
    theirs = plain.loss(world.model, expected.tensors, measure=True)
    assert float(ours.loss) == float(theirs.loss)
    assert int(ours.metrics["accuracy"]) == int(theirs.metrics["accuracy"])


def test_accuracy_counts_what_greedy_decoding_would_hit() -> None:
    world = World(dynamic=True, **LAST)
    batch = world.objective.collate([Item(row, i) for i, row in enumerate(world.rows())])
    outcome = world.objective.loss(world.model, batch.tensors, measure=True)
    assert 0 <= int(outcome.metrics["accuracy"]) <= batch.weight
    model = world.model
    with torch.no_grad():  # a model that always ends the span
        assert world.span is not None
        bias = torch.nn.Linear(32, len(world.tokenizer))
        bias.weight.zero_()
        bias.bias.zero_()
        bias.bias[world.span.end[0]] = 5.0
        model.set_output_embeddings(bias)
    outcome = world.objective.loss(model, batch.tensors, measure=True)
    assert int(outcome.metrics["accuracy"]) == 4, "once in each row"
