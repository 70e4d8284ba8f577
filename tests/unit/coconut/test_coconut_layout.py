"""Where everything stands in a row, and what is learned there."""

from __future__ import annotations

import pytest
import torch
from coconut_world import COCONUT, PROBLEMS, World

from jobs.data.curriculum import Cut
from jobs.methods.coconut.layout import GO_ON, IGNORED
from jobs.train.objective import Item
from latentctl.spec.prompt import Markers, PromptSpec

pytestmark = pytest.mark.heavy

S, E, L = COCONUT.start, COCONUT.end, "<|latent|>"
THINK = Markers(start="<think>", end="</think>")


def text(world: World, cut: Cut, example: int = 0) -> tuple[list[str], list[str]]:
    laid = world.layout.lay(world.row(PROBLEMS[example]), cut)
    assert len(laid.ids) == len(laid.targets)
    return world.shown(laid.ids), world.shown(laid.targets)


def test_a_stage_in_full() -> None:
    """First supervised at the end marker; nothing on question, markers and latents."""
    ids, targets = text(World(), Cut(2, range(1, 3)))
    end = ["down", " left", "\n", "right", "\n", "#", "#", "#", " red", "<eos>"]
    assert ids == ["one", " two", "\n", S, L, L, E, *end]
    assert targets == [str(IGNORED)] * 6 + [*end, str(IGNORED)]


def test_without_latent_steps_the_markers_stay() -> None:
    ids, targets = text(World(), Cut(0, range(0)))
    assert ids == ["one", " two", "\n", S, E, "#", "#", "#", " red", "<eos>"]
    assert targets[:4] == [str(IGNORED)] * 4


def test_without_a_span_there_are_no_markers() -> None:
    ids, targets = text(World(markers=None, variant="no_thoughts"), Cut(0, range(2, 3)))
    assert ids == ["one", " two", "\n", "right", "\n", "#", "#", "#", " red", "<eos>"]
    assert targets == [str(IGNORED)] * 2 + ids[3:] + [str(IGNORED)]


def test_the_model_learns_when_to_stop() -> None:
    _, targets = text(World(dynamic=True), Cut(2, range(0)))
    go, no = str(GO_ON), str(IGNORED)
    assert targets == [no, no, no, go, go, E, "#", "#", "#", " red", "<eos>", no]
    _, none = text(World(dynamic=True), Cut(0, range(0)))
    assert none == [no, no, no, E, "#", "#", "#", " red", "<eos>", no]


def test_markers_of_several_tokens() -> None:
    """All of the end marker is learned where the model decides, all of the start marker where it begins."""
    world = World(markers=Markers(start="<<", end=">>"), dynamic=True, start_learned=True)
    ids, targets = text(world, Cut(1, range(0)))
    assert ids[:8] == ["one", " two", "\n", "<", "<", L, ">", ">"]
    assert targets[:8] == [str(IGNORED)] * 2 + ["<", "<", str(GO_ON), ">", ">", "#"]


def test_forms_with_a_block_of_reasoning() -> None:
    plain = PromptSpec(form="plain", instruction=False)
    block = ["<", "think", ">", "\n", "right", "\n", "<", "/", "think", ">", "\n"]
    boxed = ["\\", "boxed", "{", "red", "}", "<eos>"]
    ids, _ = text(World(prompt=plain), Cut(1, range(2, 3)))
    assert ids[3:] == [S, L, E, *block, *boxed], "what remains stands in the block"
    ids, _ = text(World(prompt=plain), Cut(1, range(0)))
    assert ids[3:] == [S, L, E, *boxed], "nothing remains: no block"
    ids, _ = text(World(prompt=plain, markers=THINK), Cut(1, range(2, 3)))
    opened, closed = ["<", "think", ">"], ["<", "/", "think", ">"]
    assert ids[3:] == [*opened, L, *closed, "\n", "right", "\n", *boxed], "the span is the block"
    ids, _ = text(World(prompt=PromptSpec(form="xml", instruction=False)), Cut(1, range(0)))
    assert "".join(ids[6:]) == "<answer>red</answer><eos>"


def test_first_latents_share_a_column() -> None:
    world = World(stage=2, max_stage=2)
    batch = world.objective.collate([Item(row, i) for i, row in enumerate(world.rows())])
    t = batch.tensors
    assert (t["first"], t["longest"]) == (8, 4), "the longest question: six words, newline, marker"
    assert t["counts"].tolist() == [4, 4, 4, 4]
    span = world.span
    assert span is not None
    assert (t["ids"][:, 8:12] == span.token).all()
    assert (t["ids"][:, 7] == span.start[0]).all()
    assert (t["ids"][:, 12] == span.end[0]).all()
    for b, example in enumerate(PROBLEMS):
        pads = 8 - len(example.question.split()) - 2
        length = int((t["positions"][b] > 0).sum()) + 1
        assert t["mask"][b].tolist() == [0] * pads + [1] * (t["ids"].shape[1] - pads)
        after = t["ids"].shape[1] - pads - length
        assert t["positions"][b].tolist() == [0] * pads + [*range(length)] + [0] * after
    assert batch.weight == float((t["targets"] != IGNORED).sum())
    assert batch.tokens == sum(
        len(world.layout.lay(r, world.curriculum.train(len(r.steps))).ids) for r in world.rows()
    )


def test_a_mask_only_where_something_stands_left() -> None:
    world = World(stage=1)
    alone = world.objective.collate([Item(world.row(PROBLEMS[0]), 0)])
    assert "mask" not in alone.tensors
    assert "positions" not in alone.tensors
    none = World(stage=0)
    ragged = none.objective.collate([Item(row, i) for i, row in enumerate(none.rows())])
    assert ragged.tensors["longest"] == 0
    assert "mask" not in ragged.tensors


def test_rows_without_latents_stay_where_they_are() -> None:
    world = World(stage=4, max_stage=3, latents_per_step=1)
    batch = world.objective.collate([Item(row, i) for i, row in enumerate(world.rows())])
    assert batch.tensors["counts"].tolist() == [3, 1, 0, 3]
    assert batch.tensors["mask"][2].all()
    assert batch.tensors["ids"][2, 0] == world.row(PROBLEMS[2]).prompt[0]


def test_an_empty_batch_weighs_nothing() -> None:
    for longest in (None, 3):
        world = World(stage=1, longest=longest)
        batch = world.objective.collate([])
        assert (batch.weight, batch.tokens, batch.rows) == (0.0, 0, 0)
        outcome = world.objective.loss(world.model, batch.tensors, measure=True)
        assert float(outcome.loss) == 0.0
        outcome.loss.backward()


def test_a_row_is_cut_at_the_end() -> None:
    world = World(stage=1, max_len=9)
    row = world.row(PROBLEMS[0])
    batch = world.objective.collate([Item(row, 0)])
    assert batch.tensors["ids"].shape == (1, 9)
    assert world.shown(batch.tensors["targets"][0].tolist()) == ["down", " left"]


def test_drawn_stages_come_from_the_place() -> None:
    world = World(stage=1, uniform_prob=1.0, latents_per_step=1, max_stage=5)
    row = world.row(PROBLEMS[3])._replace(drawn=True)
    counts = [int(world.objective.collate([Item(row, p)]).tensors["counts"]) for p in range(60)]
    assert set(counts) == {0, 1, 2, 3, 4, 5}
    again = world.objective.collate([Item(row, p) for p in range(60)])
    assert again.tensors["counts"].tolist() == counts, "whatever stands beside"
    fixed = world.objective.collate([Item(row._replace(drawn=False), p) for p in range(60)])
    assert torch.equal(fixed.tensors["counts"], torch.ones(60, dtype=torch.long))
