"""What a request may say of latent steps, and what becomes of it before the engine sees it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jobs.generate.vllm_plugin.wire import unpack
from jobs.runtime.errors import JobUserError
from jobs.serve.admission import Admission
from jobs.serve.asked import read
from jobs.serve.settling import settled
from jobs.serve.traces import KEPT, Traces
from latentctl.spec.latent import LatentSpec

pytestmark = pytest.mark.heavy
CARRIED = {
    "input": {"kind": "hidden"},
    "markers": {"start": "<think>", "end": "</think>"},
    "start": "prompt",
    "stop": {"fixed": 4},
}
SOFT = '{"input": {"kind": "soft", "max_topk": 8}, "stop": {"end_marker": true, "max_len": 6}}'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<|latent|>"]})
    return made


def admission(
    tokenizer: Any, *, carried: dict[str, Any] | None = None, unasked: bool = True, **more: Any
) -> Any:
    held = CARRIED if carried is None else carried
    own = settled(None, held) if held else None
    return Admission(tokenizer, own, held, unasked, {tokenizer.eos_token_id}, 400, **more)


def params(extra: dict[str, Any] | None = None, **changes: Any) -> Any:
    plain = {
        "n": 1, "seed": None, "max_tokens": 32, "detokenize": True, "structured_outputs": None,
        "thinking_token_budget": None, "repetition_detection": None,
    }  # fmt: skip
    return SimpleNamespace(extra_args=extra, **{**plain, **changes})


def packed(admitted: Any) -> Any:
    return unpack(admitted.extra["latent"])


def test_a_checkpoint_without_settings_answers_as_text(tokenizer: Any) -> None:
    got = admission(tokenizer, carried={}).admit(params(), [1, 2])
    assert (got.extra, got.ids, got.latent) == (None, [1, 2], False)


def test_unasked_the_checkpoint_decides_and_off_is_text(tokenizer: Any) -> None:
    own = admission(tokenizer).admit(params(), [1, 2])
    assert packed(own).row.spec.input.kind == "hidden"
    assert packed(own).row.fixed == 4
    assert admission(tokenizer).admit(params({"latent": "off"}), [1]).extra is None
    quiet = admission(tokenizer, unasked=False)
    assert quiet.admit(params(), [1]).extra is None
    assert quiet.admit(params({"latent": "on"}), [1]).latent


def test_a_request_says_parts_and_the_checkpoint_the_rest(tokenizer: Any) -> None:
    got = packed(admission(tokenizer).admit(params({"latent": '{"stop": 2}'}), [1]))
    assert (got.row.spec.input.kind, got.row.fixed) == ("hidden", 2)
    alone = admission(tokenizer, carried={}).admit(params({"latent": SOFT}), [1])
    assert packed(alone).row.spec.markers.start == "<think>"
    none = admission(tokenizer).admit(params({"latent": '{"input": "none"}'}), [1])
    assert none.latent is False


def test_the_start_marker_is_opened_where_the_prompt_does_not_end_with_it(tokenizer: Any) -> None:
    rules = admission(tokenizer)
    marker = tokenizer.convert_tokens_to_ids("<think>")
    newline = tokenizer.encode("\n", add_special_tokens=False)
    assert packed(rules.admit(params(), [5, 6])).opening == (marker,)
    for ids in ([5, marker], [5, marker, *newline], [5, marker, *newline, *newline]):
        got = rules.admit(params(), ids)
        assert got.ids == [5, marker]
        assert packed(got).opening == ()
    other = rules.admit(params(), [5, marker, 7])
    assert (other.ids, packed(other).opening) == ([5, marker, 7], (marker,))
    waits = rules.admit(params({"latent": '{"start": "model"}'}), [5])
    assert packed(waits).opening == ()


def test_the_noise_of_a_request_follows_its_seed(tokenizer: Any) -> None:
    rules = admission(tokenizer)
    keys = [packed(rules.admit(params(seed=s), [1])).row.key for s in (1, 1, 2, None, None)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_the_keys_of_others_are_left_alone(tokenizer: Any) -> None:
    got = admission(tokenizer).admit(params({"session_id": "a", "latent": "off"}), [1])
    assert got.extra == {"session_id": "a"}


def test_what_a_server_cannot_do_is_said_to_those_who_ask_for_it(tokenizer: Any) -> None:
    rules = admission(tokenizer, carried={}, why_not="gemma takes no latent steps")
    assert rules.admit(params(), [1]).latent is False
    with pytest.raises(ValueError, match="gemma takes no latent steps"):
        rules.admit(params({"latent": SOFT}), [1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"structured_outputs": object()}, "a grammar has no place"),
        ({"thinking_token_budget": 8}, "max_len"),
        ({"repetition_detection": object()}, "repetitions"),
        ({"detokenize": False}, "--latent off"),
        ({"max_tokens": 5}, "leave no room for an answer"),
    ],
)
def test_what_does_not_go_with_latent_steps_is_refused(
    tokenizer: Any, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        admission(tokenizer).admit(params(**changes), [1])
    assert admission(tokenizer).admit(params({"latent": "off"}, **changes), [1]).latent is False


def test_several_samples_share_everything_but_noise(tokenizer: Any) -> None:
    rules = admission(tokenizer)
    assert rules.admit(params(n=4), [1]).latent
    noisy = {"latent": json.dumps({"noise": {"kind": "gaussian"}})}
    with pytest.raises(ValueError, match="send 4 requests"):
        rules.admit(params(noisy, n=4), [1])


def test_a_prompt_of_embeddings_takes_no_latent_steps(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="embeddings"):
        admission(tokenizer).admit(params(), None)


def test_a_recipes_short_forms_hold_here_too() -> None:
    spec = read({"latent": '{"input": "pause", "stop": 3, "markers": "coconut"}'}).latent
    assert isinstance(spec, LatentSpec)
    assert spec.stop is not None
    assert spec.stop.fixed == 3
    assert read({"latent_trace": "3"}).trace == 3
    assert read(None) == (None, None)


def test_a_count_of_reference_steps_becomes_the_number_that_it_is_at_most() -> None:
    spec = settled(None, {**CARRIED, "stop": {"per_step": {"latents": 2, "cap": 3}}})
    assert spec is not None
    assert spec.stop is not None
    assert (spec.stop.fixed, spec.stop.per_step) == (6, None)
    with pytest.raises(JobUserError, match="a question has none"):
        settled(None, {**CARRIED, "stop": {"per_step": {"latents": 2}}})


def test_the_oldest_trace_makes_room(tokenizer: Any) -> None:
    traces = Traces(tokenizer)
    told = {"causes": ["fixed"], "thoughts": [[1.0, [65, 66], [0.7, 0.3], 1.0, False]]}
    for i in range(KEPT + 1):
        traces.keep(f"cmpl-{i}", [told])
    assert traces.of("cmpl-0") is None
    found = traces.of(f"cmpl-{KEPT}")
    assert found is not None
    assert found["choices"][0]["steps"][0]["tokens"][0][1] == 0.7


def test_a_request_is_taken_from_the_engine_once(tokenizer: Any) -> None:
    traces = Traces(tokenizer)
    traces.known("a", "a-1f")
    assert traces.taken("a", 2) == ["0_a-1f", "1_a-1f"]
    assert traces.taken("a", 2) == []
