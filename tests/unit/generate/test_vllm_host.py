"""What the engine `vllm` does on the host: the arithmetic of its start, turns, and how ids are followed."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_harness import NumberTokenizer, ask
from hypothesis import given
from hypothesis import strategies as st

from jobs.generate.make import why_not_vllm
from jobs.generate.protocol import Thoughts
from jobs.generate.vllm_args import (
    Devices,
    Loading,
    Room,
    apart,
    cache_bytes,
    engine_args,
    environment,
    own_gpus,
)
from jobs.generate.vllm_plugin import wire
from jobs.generate.vllm_requests import NO_PLACEHOLDER, Followed, unmarked
from jobs.latent.knobs import LATENT, Knobs, Row
from jobs.latent.state import State, observe
from latentctl.spec.latent import LatentSpec

RECORD = 60
CONFIG = SimpleNamespace(
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=64, head_dim=None
)
CONFIG.get_text_config = lambda decoder: CONFIG


@pytest.mark.parametrize(
    ("visible", "each", "rank", "gpus"),
    [
        (0, 1, 0, ()),
        (0, 1, 3, ()),
        (1, 1, 0, (0,)),
        (1, 1, 5, (0,)),  # each process sees its own alone
        (8, 1, 5, (5,)),
        (4, 4, 1, (0, 1, 2, 3)),  # shared out by the scheduler already
        (8, 2, 3, (6, 7)),
        (8, 4, 1, (4, 5, 6, 7)),
    ],
)
def test_a_process_takes_its_own_gpus(visible: int, each: int, rank: int, gpus: tuple[int, ...]) -> None:
    assert own_gpus(visible, each, rank) == gpus


@pytest.mark.parametrize(("visible", "each", "rank"), [(0, 2, 0), (1, 2, 0), (6, 4, 1), (3, 2, 1)])
def test_too_few_gpus_are_said_in_words(visible: int, each: int, rank: int) -> None:
    with pytest.raises(ValueError, match=f"tensor_parallel: {each} needs {each} GPUs"):
        own_gpus(visible, each, rank)


def test_vllm_computes_in_a_process_of_its_own_with_several_gpus_or_beside_a_process_group() -> None:
    assert [apart(0, False), apart(1, False), apart(1, True), apart(2, False)] == [False, False, True, True]


def test_several_gpus_are_one_copy_of_the_model() -> None:
    loading = Loading("m", torch.bfloat16, revision="r", trust_remote_code=True)
    room = Room(100, max_batch=7, gpu_memory=0.5)
    args = engine_args(loading, CONFIG, room, Devices((4, 5), own_process=True))
    assert (args["tensor_parallel_size"], args["device_ids"]) == (2, [4, 5])
    assert (args["gpu_memory_utilization"], args["dtype"]) == (0.5, "bfloat16")
    assert (args["revision"], args["trust_remote_code"], args["max_num_seqs"]) == ("r", True, 7)
    assert "kv_cache_memory_bytes" not in args
    assert "max_num_batched_tokens" not in args
    first = engine_args(loading, CONFIG, replace(room, max_batch=5000), Devices((0,)))
    assert "device_ids" not in first
    assert first["max_num_batched_tokens"] == 5000


def test_the_cache_of_a_cpu_holds_what_the_recipe_allows_and_one_request_at_least() -> None:
    position = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, their size, bytes
    block = 32 * position
    few = Room(100, max_batch=3, max_batch_tokens=320)
    assert cache_bytes(CONFIG, torch.float32, few) == (10 + 3 + 1) * block
    one = replace(few, longest=1000)
    assert cache_bytes(CONFIG, torch.float32, one) == (32 + 3 + 1) * block
    assert cache_bytes(CONFIG, torch.bfloat16, few) == cache_bytes(CONFIG, torch.float32, few) // 2


def test_the_environment_is_as_before_after_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("TO_BE_CHANGED", "a")
    before = dict(os.environ)
    with environment(own_process=True):
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"
        assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG", "what was set already stays"
        os.environ["TO_BE_CHANGED"] = "b"
        os.environ["NEW"] = "c"
    assert dict(os.environ) == before


def thinking(
    *, start: str = "model", begin: tuple[int, ...] = (1, 2), end: tuple[int, ...] = (3, 4)
) -> Thoughts:
    spec = LatentSpec.model_validate({"input": "hidden", "start": start, "stop": 2, "markers": "think"})
    return Thoughts(spec, begin, end, fixed=2)


def followed(request: Any, **also: Any) -> Followed:
    said = {"tokenizer": NumberTokenizer(), "eos": frozenset([9, 4]), "vocabulary": 61, "record": RECORD}
    return Followed(request, **{**said, **also})


def test_a_span_is_followed_by_the_ids_that_come() -> None:
    request = replace(ask("a", [7, 1, 2], max_new_tokens=20), thoughts=thinking(start="prompt"))
    one = followed(request)
    turn = one.turn()
    assert turn.sampling["extra_args"][wire.KEY]["record"] == RECORD
    assert turn.sampling["stop_token_ids"] == [9], "an end that is part of a marker ends nothing in vLLM"
    causes = [one.take(i, -0.5) for i in (RECORD, RECORD, 3, 4, 5, 1, 2, 9)]
    assert causes == [*[None] * 7, "eos"]
    told = {"causes": ["fixed"], "thoughts": [[0.1, [5], [0.5], 1.0, False]] * 3, "actions": None}
    sample = one.sample("eos", told=told)
    assert sample.ids == [3, 4, 5, 1, 2]
    assert (sample.latents, sample.latent_cause, sample.spans) == (2, "fixed", ((0, 2),))
    assert (sample.forced, sample.marker_tokens) == (2, 2)
    assert sample.thoughts is not None
    assert len(sample.thoughts) == 2, "what vLLM computed ahead is not the row's"


def test_an_answer_cut_in_a_later_span_keeps_the_budget_as_its_cause() -> None:
    one = followed(replace(ask("a", [7], max_new_tokens=9), thoughts=thinking()))
    one.turn()
    ids = (1, 2, RECORD, RECORD, 3, 4, 1, 2, RECORD)
    assert [one.take(i, -0.5) for i in ids] == [*[None] * 8, "length"]
    sample = one.sample("length", told={"causes": ["fixed"], "thoughts": None, "actions": None})
    assert (sample.latent_cause, sample.spans) == ("budget", ((2, 2), (6, 1)))


def test_a_second_span_that_has_not_begun_leaves_the_first_ones_cause() -> None:
    one = followed(replace(ask("a", [7], max_new_tokens=8), thoughts=thinking()))
    one.turn()
    assert [one.take(i, -0.5) for i in (1, 2, RECORD, RECORD, 3, 4, 1, 2)][-1] == "length"
    sample = one.sample("length", told={"causes": ["max_len"], "thoughts": None, "actions": None})
    assert (sample.latent_cause, sample.spans) == ("max_len", ((2, 2), (6, 0)))


@given(
    st.sampled_from([(1,), (1, 2), (1, 1), (1, 2, 1), (1, 1, 2, 1)]), st.lists(st.integers(1, 2), max_size=30)
)
def test_a_start_marker_is_heard_where_the_latent_state_hears_it(
    begin: tuple[int, ...], text: list[int]
) -> None:
    """Markers that overlap themselves too."""
    asked = thinking(begin=begin)
    one = followed(replace(ask("a", [7], max_new_tokens=99), thoughts=asked))
    knobs = Knobs.of([Row(asked.spec, asked.end, asked.start, asked.fixed)])
    state = State.start(knobs, torch.zeros(1, 0, 4), torch.zeros(1, dtype=torch.int64))
    for token in text:
        one.take(token, -0.5)
        state = observe(torch.tensor([token]), state, knobs)
        assert (one.row.phase == LATENT) == (int(state.phase) == LATENT)
        if one.row.phase == LATENT:
            for id in (RECORD, RECORD, *asked.end):
                one.take(id, -0.5)
            state = state._replace(phase=torch.zeros(1, dtype=torch.int64))


def test_turns_go_on_where_the_last_was_left_and_draw_other_numbers() -> None:
    marker = "".join(chr(0x4E00 + i) for i in (30, 31))
    request = ask(
        "a",
        [7, 8],
        markers=("", marker),
        max_new_tokens=9,
        max_think_tokens=2,
        temperature=0.5,
        top_k=3,
        seed=5,
    )
    one = followed(request)
    first = one.turn()
    assert (first.prompt, first.sampling["max_tokens"], first.sampling["top_k"]) == ([7, 8], 9, 3)
    assert "allowed_token_ids" not in first.sampling
    assert [one.take(20, -1.0), one.turns_over] == [None, False]
    assert [one.take(21, -1.0), one.turns_over] == [None, True]
    forced = [one.turn()]
    one.take(30, -2.0)
    assert one.turns_over
    forced.append(one.turn())
    one.take(31, -2.0)
    assert [t.sampling["allowed_token_ids"] for t in forced] == [[30], [31]]
    assert [t.sampling["max_tokens"] for t in forced] == [1, 1]
    last = one.turn()
    assert (last.prompt, last.sampling["max_tokens"]) == ([7, 8, 20, 21, 30, 31], 5)
    assert not one.turns_over
    seeds = [t.sampling["seed"] for t in (first, *forced, last)]
    assert len(set(seeds)) == 4
    assert all(0 <= s < 2**63 for s in seeds)
    assert [followed(request).turn().sampling["seed"]] == seeds[:1], "a function of the sample alone"
    assert one.sample("length").forced == 2


def config(*architectures: str) -> Any:
    return SimpleNamespace(architectures=list(architectures), get_text_config=lambda decoder: CONFIG)


def special(*ids: int) -> Any:
    """A tokenizer with these special tokens."""
    return SimpleNamespace(
        all_special_ids=list(ids), pad_token_id=None, bos_token_id=None, unk_token_id=None,
        convert_tokens_to_ids=lambda text: None,
    )  # fmt: skip


def test_the_cheapest_reason_against_vllm_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a config is read nor vLLM imported where that decides nothing."""

    def unread() -> Any:
        pytest.fail("the model's config was read")

    asked = thinking()
    wide = replace(
        asked,
        spec=LatentSpec.model_validate(
            {"input": {"kind": "soft", "max_topk": None}, "start": "model", "stop": 2, "markers": "think"}
        ),
    )
    monkeypatch.setattr("jobs.generate.vllm_plugin.compat.installed", lambda: None)
    assert why_not_vllm(unread, []) == "vllm is not installed in this interpreter"
    monkeypatch.setattr("jobs.generate.vllm_plugin.compat.installed", lambda: "0.32.0")
    monkeypatch.setattr("jobs.generate.vllm_plugin.compat.problem", lambda: pytest.fail("vLLM was imported"))
    assert "max_topk: null" in (why_not_vllm(unread, [asked, wide]) or "")
    reason = why_not_vllm(lambda: config("MambaForCausalLM"), [asked])
    assert "MambaForCausalLM takes no latent steps in vLLM" in (reason or "")
    monkeypatch.setattr("jobs.generate.vllm_plugin.compat.problem", lambda: "something has changed")
    assert why_not_vllm(lambda: config("MambaForCausalLM"), []) == "something has changed"
    assert why_not_vllm(lambda: config("Qwen3ForCausalLM"), [asked]) == "something has changed"


def test_latent_steps_need_a_special_token_that_ends_nothing() -> None:
    """GPT-2's only one ends answers."""
    asked = [thinking()]
    assert unmarked(asked, special(9, 11), {9}) is None
    assert unmarked(asked, special(9), {9}) == NO_PLACEHOLDER
    assert unmarked([], special(9), {9}) is None
