"""Markers: what becomes a token, which rows it gets, and what is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_unroll import model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from jobs.models import export
from jobs.models.markers import add_markers, add_tokens
from jobs.models.vocab import train
from jobs.runtime.errors import JobUserError
from latentctl.spec.model import TokenizerInit

pytestmark = pytest.mark.heavy

COCONUT = ["<|start-latent|>", "<|end-latent|>", "<|latent|>"]
TEXTS = ["ab << 1+2=3 >> cd\n", "ab <<1+2=3>>\n### 3"]
KINDS = ["word", "bpe", "byte", "real"]


def gpt2_like() -> PreTrainedTokenizerFast:
    """As real ones are made: byte-level merges, one special token for all purposes, another of its own."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS * 4, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=end, bos_token=end, unk_token=end, pad_token=end,
        extra_special_tokens=["<|tool|>"],
    )  # fmt: skip


def tokenizer(kind: str) -> Any:
    if kind == "real":
        return gpt2_like()
    return train(TokenizerInit(kind=kind, vocab_size=300), TEXTS, max_len=64)  # type: ignore[arg-type]


def sized(size: int, arch: str = "gpt2", *, tied: bool = True) -> Any:
    made = model(arch, tied=tied)
    made.resize_token_embeddings(size, mean_resizing=False)
    return made


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padded", [0, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_new_rows_are_copies_of_the_row_of_init(kind: str, padded: int, tied: bool) -> None:
    """In the embeddings and in the head; with room left in a padded table or none. No other row moves."""
    tok = tokenizer(kind)
    before = len(tok)
    made = sized(before + padded, tied=tied)
    embeddings, head = made.get_input_embeddings().weight.clone(), made.get_output_embeddings().weight.clone()
    found = add_markers(made, tok, [*COCONUT, "<<"], "<<")
    assert [found[t] for t in COCONUT] == [(before,), (before + 1,), (before + 2,)]
    source = tok("<<", add_special_tokens=False)["input_ids"]
    assert found["<<"] == tuple(source)
    tables = (made.get_input_embeddings().weight, embeddings), (made.get_output_embeddings().weight, head)
    for now, was in tables:
        assert torch.equal(now[:before], was[:before])
        assert torch.equal(now[before : before + 3], was[source[:1]].expand(3, -1))
        assert torch.equal(now[before + 3 : before + padded], was[before + 3 :])
        assert now.shape[0] == max(before + padded, before + 3)
    assert (made.get_input_embeddings().weight is made.get_output_embeddings().weight) == tied
    assert made.config.vocab_size == max(before + padded, before + 3)
    logits = made(input_ids=torch.tensor([[0, before]])).logits
    assert logits.shape[-1] == made.config.vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_twice_is_once(kind: str) -> None:
    tok = tokenizer(kind)
    made = sized(len(tok))
    first = add_markers(made, tok, COCONUT, "<<")
    torch.nn.init.normal_(made.get_input_embeddings().weight)
    weights, size = made.get_input_embeddings().weight.clone(), len(tok)
    assert add_markers(made, tok, COCONUT, None) == first
    assert len(tok) == size
    assert torch.equal(made.get_input_embeddings().weight, weights)


@pytest.mark.parametrize("init", [None, "", "☃ is in no vocabulary of words"])
def test_without_init_the_mean_of_the_rows_in_use(init: str | None) -> None:
    tok = tokenizer("word")
    before = len(tok)
    made = sized(before + 4, "qwen3", tied=False)
    was = made.get_output_embeddings().weight[:before].mean(0)
    add_markers(made, tok, COCONUT, init)
    torch.testing.assert_close(made.get_output_embeddings().weight[before], was)


@pytest.mark.parametrize("kind", KINDS)
def test_they_survive_export_and_keep_other_special_tokens(kind: str, tmp_path: Path) -> None:
    tok = tokenizer(kind)
    specials = set(tok.all_special_tokens)
    made = sized(len(tok))
    found = add_markers(made, tok, COCONUT, "<<")
    assert set(tok.all_special_tokens) == specials | set(COCONUT)
    export(made, tok, tmp_path / "m", {})
    again = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert add_tokens(again, COCONUT) == found
    assert len(again) == len(tok)
    text = "1+2<|latent|><|latent|><|end-latent|>3"
    assert again(text)["input_ids"] == tok(text)["input_ids"]
    assert again(text)["input_ids"].count(found["<|latent|>"][0]) == 2
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert torch.equal(reloaded.get_input_embeddings().weight, made.get_input_embeddings().weight)


@pytest.mark.parametrize("kind", ["bpe", "byte", "real"])
def test_ordinary_text_stays_ordinary_text(kind: str) -> None:
    """As many tokens as the tokenizer writes it with; nothing is added, nothing grows."""
    tok = tokenizer(kind)
    size = len(tok)
    made = sized(size)
    found = add_markers(made, tok, ["<think>", "<<", "</think>"], "<<")
    assert len(tok) == size
    assert made.get_input_embeddings().num_embeddings == size
    assert len(found["<think>"]) > 1
    assert tok.decode(found["<think>"]) == "<think>"


def test_a_text_that_nothing_can_write_is_refused() -> None:
    tok = tokenizer("word")
    with pytest.raises(JobUserError, match="think") as caught:
        add_tokens(tok, ["<think>"])
    assert caught.value.where == "latent.markers"
    assert caught.value.hint
    with pytest.raises(JobUserError, match="cannot write"):
        add_tokens(tok, [""])
