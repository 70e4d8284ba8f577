"""The self-check before vLLM is used, and what is refused before a request reaches it."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("vllm", reason="vllm is not installed")

from latent_requests import latent

from jobs.generate.vllm_plugin import compat, setup, wire

pytestmark = pytest.mark.heavy


def test_the_vllm_that_is_pinned_passes() -> None:
    assert compat.self_check()[0] is None


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (None, "vllm is not installed"),
        ("0.31.0", "vllm 0.31.0 is installed, this latentctl works with vllm 0.32.*"),
        ("0.33.1+cu130", "vllm 0.33.1+cu130 is installed, this latentctl works with vllm 0.32.*"),
    ],
)
def test_another_vllm_is_named(version: str | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "installed", lambda: version)
    assert compat.problem() == words


def test_a_hook_that_changed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    def other(self: Any, logits: Any) -> None: ...

    monkeypatch.setattr(GPUModelRunner, "_sample", other)
    words = compat.problem() or ""
    assert "GPUModelRunner._sample takes self, logits, expected self, logits, spec_decode_metadata" in words
    monkeypatch.delattr(GPUModelRunner, "_sample")
    assert "it has no vllm.v1.worker.gpu_model_runner:GPUModelRunner._sample" in (compat.problem() or "")


def test_an_architecture_without_the_hook_is_named_with_those_that_have_it() -> None:
    with pytest.raises(ValueError, match=r"MambaForCausalLM takes no latent steps.*Qwen3ForCausalLM"):
        setup.engine_args(["MambaForCausalLM"])


@pytest.mark.parametrize(
    ("input", "words"),
    [
        ({"kind": "soft", "max_topk": None}, "max_topk: null"),
        ({"kind": "soft", "max_topk": 65}, "max_topk (65) is beyond the 64"),
        ({"kind": "soft", "top_k": 100, "top_p": 0.9}, "top_k (100) is beyond the 64"),
        ({"kind": "soft", "max_topk": 64}, None),
        ("hidden", None),
    ],
)
def test_what_a_step_of_fixed_width_cannot_mix_is_refused(input: Any, words: str | None) -> None:
    said = wire.refuses(latent(input, 3))
    assert (said is None) == (words is None)
    assert words is None or words in (said or "")


def test_settings_survive_the_wire() -> None:
    asked = latent({"kind": "contextual", "window": 3}, {"end_marker": True, "max_len": 9}, trace=4)
    row = wire.unpack(wire.pack(asked, key=-(2**62), record=5)).row
    assert (row.spec, row.start, row.end, row.fixed, row.token, row.trace, row.key) == (
        asked.spec, asked.start, asked.end, asked.fixed, asked.token, asked.trace, -(2**62),
    )  # fmt: skip


class _Tokenizer:
    unk_token_id = 0
    all_special_ids = (0, 1, 2, 3, 4)

    def __init__(self, latent: int, pad: int | None, bos: int | None) -> None:
        self.latent, self.pad_token_id, self.bos_token_id = latent, pad, bos

    def convert_tokens_to_ids(self, text: str) -> int:
        return self.latent


@pytest.mark.parametrize(
    ("tokenizer", "chosen"),
    [
        (_Tokenizer(4, 3, 1), 4),
        (_Tokenizer(0, 3, 1), 3),
        (_Tokenizer(0, 2, 1), 1),
        (_Tokenizer(0, None, None), 1),
    ],
)
def test_the_placeholder_is_a_special_token_that_ends_nothing(tokenizer: Any, chosen: int) -> None:
    assert wire.placeholder(tokenizer, end=(), eos={2}) == chosen


def test_a_tokenizer_without_a_spare_special_token_has_no_placeholder() -> None:
    assert wire.placeholder(_Tokenizer(0, 3, 1), end=(1, 3, 4), eos={2}) is None
