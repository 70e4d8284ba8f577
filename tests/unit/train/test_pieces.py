"""The parts of the loop that need no engine: schedules, order, split, packing, judging."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.models.random_init import random_model
from jobs.runtime.errors import JobUserError
from jobs.train.config import deepspeed_config, parameter_groups
from jobs.train.judge import better, judge
from jobs.train.objective import Item
from jobs.train.order import Order
from jobs.train.packing import block_mask, check_packing, pack
from jobs.train.schedule import lr_factor, total_rows, total_steps, warmup_steps
from jobs.train.split import Split, split_of
from jobs.train.state import TrainState
from jobs.train.text import TextObjective, TextRow
from latentctl.spec.model import InitSpec
from latentctl.spec.train import TrainSpec

pytestmark = pytest.mark.heavy


# --- schedules ------------------------------------------------------------


def test_schedules_in_closed_form() -> None:
    def rates(**train: Any) -> list[float]:
        spec = TrainSpec(**train)
        return [lr_factor(spec, 10, step) for step in range(10)]

    assert rates() == [1.0] * 10
    assert rates(schedule="linear") == pytest.approx([1 - s / 10 for s in range(10)])
    assert rates(schedule="linear", min_lr_ratio=0.2, warmup=2) == pytest.approx(
        [0.5, 1.0] + [1 - 0.8 * s / 8 for s in range(8)]
    )
    assert rates(schedule="cosine", min_lr_ratio=0.1, warmup=0.2) == pytest.approx(
        [0.5, 1.0] + [0.1 + 0.9 * (1 + math.cos(math.pi * s / 8)) / 2 for s in range(8)]
    )
    assert rates(warmup=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])
    assert lr_factor(TrainSpec(schedule="cosine"), 10, 10) == pytest.approx(0.0)


def test_warmup_is_a_share_or_a_number() -> None:
    assert [warmup_steps(TrainSpec(warmup=w), 10) for w in (0, 0.25, 1, 3)] == [0, 3, 1, 3]


def test_how_long() -> None:
    def steps(**train: Any) -> tuple[int, int | None]:
        spec = TrainSpec(batch=4, **train)
        return total_steps(spec, 10), total_rows(spec, 10)

    assert steps() == (3, 10)
    assert steps(epochs=2.0) == (5, 20)
    assert steps(epochs=0.1) == (1, 1)
    assert steps(epochs=1.1) == (3, 11)
    assert steps(steps=7) == (7, None)


# --- order and split ------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 30), batch=st.integers(1, 12), epochs=st.integers(1, 3), seed=st.integers(0, 9))
def test_each_row_is_seen_once_an_epoch(rows: int, batch: int, epochs: int, seed: int) -> None:
    order = Order(rows, batch=batch, seed=seed, total=rows * epochs)
    steps = -(-rows * epochs // batch)
    places = [p for step in range(steps) for p in order.places(step)]
    assert places == list(range(rows * epochs))
    seen = [order.row(p) for p in places]
    for epoch in range(epochs):
        assert sorted(seen[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_the_order_changes_with_epoch_and_seed_alone() -> None:
    def order(seed: int) -> list[int]:
        made = Order(50, batch=7, seed=seed)
        return [made.row(p) for p in range(100)]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0)[:50] != order(0)[50:]


@settings(max_examples=80, deadline=None)
@given(
    micro=st.integers(1, 4), accumulate=st.integers(1, 4), world=st.integers(1, 4), missing=st.integers(0, 20)
)
def test_ranks_share_a_batch_without_overlap(micro: int, accumulate: int, world: int, missing: int) -> None:
    splits = [Split(micro, accumulate, world, rank) for rank in range(world)]
    count = max(0, splits[0].batch - missing)
    parts = [s.parts(range(count)) for s in splits]
    assert all(len(p) == accumulate for p in parts)
    assert all(len(x) <= micro for p in parts for x in p)
    assert sorted(i for p in parts for x in p for i in x) == list(range(count))
    chunks = [s.chunks(count) for s in splits]
    assert len({len(c) for c in chunks}) == 1, "a rank would wait for ever"
    assert sorted(i for c in chunks for x in c for i in x) == list(range(count))


def test_the_default_micro_batch_is_the_largest_up_to_eight() -> None:
    def split(batch: int, world: int, micro: int | None = None) -> tuple[int, int]:
        found = split_of(TrainSpec(batch=batch, micro_batch=micro), world=world, rank=0)
        assert found.batch == batch
        return found.micro, found.accumulate

    assert split(32, 1) == (8, 4)
    assert split(12, 2) == (6, 1)
    assert split(7, 1) == (7, 1)
    assert split(11, 1) == (1, 11)
    assert split(128, 1, 128) == (128, 1)


def test_batches_that_do_not_come_out_even_are_refused_with_ones_that_do() -> None:
    with pytest.raises(JobUserError, match="10 rows cannot be shared evenly by 4 processes") as caught:
        split_of(TrainSpec(batch=10), world=4, rank=0)
    assert "8 or 12" in (caught.value.hint or "")
    with pytest.raises(
        JobUserError, match=r"not a multiple of train.micro_batch × processes \(4 × 2\)"
    ) as caught:
        split_of(TrainSpec(batch=12, micro_batch=4), world=2, rank=0)
    assert "8 or 16" in (caught.value.hint or "")
    assert "1, 2, 3, 6" in (caught.value.hint or "")


# --- optimizer ------------------------------------------------------------


def tiny(arch: str, attention: str = "sdpa") -> Any:
    init = InitSpec(arch=arch, hidden=32, layers=2, heads=2, max_len=128)  # type: ignore[arg-type]
    return random_model(
        init, vocab_size=40, attention=attention, dtype=torch.float32, device=torch.device("cpu")
    )


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_biases_and_norms_do_not_decay(arch: str) -> None:
    model = tiny(arch)
    names = {id(p): n for n, p in model.named_parameters()}
    decay, plain = ({names[id(p)] for p in g["params"]} for g in parameter_groups(model, 0.1))
    assert decay | plain == set(names.values())
    assert not decay & plain
    assert all(n.endswith("weight") and "norm" not in n and "ln_" not in n for n in decay)
    assert all("norm" in n or "ln_" in n or n.endswith("bias") for n in plain)


def test_bf16_accumulates_in_fp32_at_every_stage() -> None:
    split = Split(2, 3, 1, 0)
    for stage in (0, 1, 2, 3):
        config = deepspeed_config(TrainSpec(zero_stage=stage, batch=6), split, torch.bfloat16)  # type: ignore[arg-type]
        assert config["data_types"] == {"grad_accum_dtype": "fp32"}
        assert config["zero_optimization"]["stage"] == max(stage, 1)
    assert "bf16" not in deepspeed_config(TrainSpec(batch=6), split, torch.float32)


# --- rows, padding, packing ------------------------------------------------------------


def random_rows(count: int, seed: int = 0) -> list[TextRow]:
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        size = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(1, 40, (size,), generator=generator).tolist()

    return [TextRow(ids(0 if i == 0 else 1, 15), ids(1, 12)) for i in range(count)]


def total(objective: TextObjective, model: Any, rows: list[TextRow]) -> tuple[float, float, dict[str, Any]]:
    """Loss sum, weight, gradients."""
    model.zero_grad()
    batch = objective.collate([Item(r, i) for i, r in enumerate(rows)])
    outcome = objective.loss(model, batch.tensors, measure=True)
    outcome.loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    grads["hits"] = outcome.metrics["accuracy"]
    return outcome.loss.item(), batch.weight, grads


def alone(model: Any, rows: list[TextRow]) -> tuple[float, dict[str, Any]]:
    """Each row by itself, by plain log-probs: no padding, no packing."""
    model.zero_grad()
    loss, hits = torch.zeros(()), torch.tensor(0)
    for row in rows:
        ids = torch.tensor([*row.prompt, *row.response])
        logp = model(ids[None]).logits[0].log_softmax(-1)
        for t in range(max(len(row.prompt), 1), len(ids)):
            loss = loss - logp[t - 1, ids[t]]
            hits = hits + (logp[t - 1].argmax() == ids[t])
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    return loss.item(), {**grads, "hits": hits}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2", "qwen3"])
def test_padding_and_packing_change_neither_loss_nor_gradients(arch: str, attention: str) -> None:
    model, rows = tiny(arch, attention), random_rows(7)
    check_packing(model)
    expected, grads = alone(model, rows)
    for room in (None, 64, 30):
        loss, weight, found = total(TextObjective(pad=0, pack_to=room), model, rows)
        assert loss == pytest.approx(expected, rel=1e-6, abs=1e-5)
        assert weight == sum(len(r.response) - (not r.prompt) for r in rows)
        for name, grad in grads.items():
            torch.testing.assert_close(found[name], grad, atol=1e-5, rtol=1e-5, msg=f"{room} {name}")


def test_packed_rows_never_see_one_another() -> None:
    """Change one row of a pack: no logit of another row moves, bit for bit."""
    rows = random_rows(3, seed=1)
    objective = TextObjective(pad=0, pack_to=128)
    for arch in ("gpt2", "llama", "qwen2", "qwen3"):
        model = tiny(arch)

        def logits(changed: list[TextRow], model: Any = model) -> tuple[torch.Tensor, torch.Tensor]:
            tensors = objective.collate([Item(r, 0) for r in changed]).tensors
            assert tensors["ids"].shape[0] == 1, "they were to share one sequence"
            mask = block_mask(tensors["blocks"], model)
            with torch.no_grad():
                out = model(tensors["ids"], attention_mask=mask, position_ids=tensors["positions"])
            return out.logits[0], tensors["blocks"][0]

        before, blocks = logits(rows)
        other = [rows[0], TextRow([3] * len(rows[1].prompt), [5] * len(rows[1].response)), rows[2]]
        after, _ = logits(other)
        assert torch.equal(before[blocks != 1], after[blocks != 1])
        assert not torch.equal(before[blocks == 1], after[blocks == 1])


def test_padding_tokens_do_not_matter() -> None:
    model, rows = tiny("gpt2"), random_rows(5)
    assert total(TextObjective(pad=0), model, rows)[0] == total(TextObjective(pad=39), model, rows)[0]


def test_an_empty_micro_batch_weighs_nothing_but_has_a_graph() -> None:
    model = tiny("llama")
    for room in (None, 32):
        loss, weight, grads = total(TextObjective(pad=0, pack_to=room), model, [])
        assert (loss, weight) == (0.0, 0.0)
        assert all(not g.any() for g in grads.values())
        assert TextObjective(pad=0, pack_to=room).collate([]).rows == 0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=20), st.integers(10, 60))
def test_packs_hold_each_row_once_within_their_room(lengths: list[int], room: int) -> None:
    bins = pack(lengths, room)
    assert Counter(i for b in bins for i in b) == Counter(range(len(lengths)))
    assert all(len(b) == 1 or sum(lengths[i] for i in b) <= room for b in bins)


def test_packing_saves_computation() -> None:
    rows = [TextRow([1] * 3, [2] * n) for n in (40, 5, 9, 12)]
    packed, padded = (
        TextObjective(pad=0, pack_to=room).collate([Item(r, 0) for r in rows]) for room in (80, None)
    )
    assert packed.tensors["ids"].numel() < 0.5 * padded.tensors["ids"].numel()
    assert packed.tokens == padded.tokens == 78


def test_families_without_a_proof_are_not_packed() -> None:
    model = tiny("llama")
    model.config.model_type = "mamba"
    with pytest.raises(JobUserError, match="not proven for the family 'mamba'"):
        check_packing(model)
    model = tiny("qwen2")
    model.config.layer_types = ["sliding_attention", "full_attention"]
    with pytest.raises(JobUserError, match="sliding-window"):
        check_packing(model)
    model = tiny("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(JobUserError, match="sdpa or eager"):
        check_packing(model)


# --- judging ------------------------------------------------------------


def test_better() -> None:
    assert better("loss", 1.0, 2.0)
    assert not better("loss", 2.0, 1.0)
    assert better("accuracy", 0.6, 0.5)
    assert not better("accuracy", 0.52, 0.5, by=0.05)
    assert better("accuracy", 0.1, None)
    assert not better("loss", math.nan, None)
    assert not better("loss", 1.0, 1.0)


def test_early_stop_waits_for_its_patience_and_survives_a_checkpoint(tmp_path: Any) -> None:
    train = TrainSpec(
        eval_every=1,
        keep={"best": "accuracy"},  # type: ignore[arg-type]
        early_stop={"metric": "loss", "patience": 2, "min_delta": 0.1},  # type: ignore[arg-type]
    )
    state = TrainState(world_size=1)
    told = []
    for step, (loss, accuracy) in enumerate([(2, 0.1), (1.5, 0.3), (1.45, 0.2), (1.44, 0.4)], 1):
        state.step = step
        told.append(judge(train, state, {"loss": loss, "accuracy": accuracy}))
        state.save(tmp_path)
        again = TrainState.load(tmp_path)
        assert again == state
        state = again
    assert told == [True, True, False, True]
    assert state.best is not None
    assert (state.best.metric, state.best.value, state.best.step) == ("accuracy", 0.4, 4)
    assert state.stopped == "loss has not improved in 2 validations"
