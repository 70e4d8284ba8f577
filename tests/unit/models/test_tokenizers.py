"""Tokenizers trained on a task's own text, and those that come with weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.models import load_tokenizer, unknown_text
from jobs.models.vocab import EOS, PAD, UNK, train
from jobs.runtime.errors import JobUserError
from latentctl.spec.methods import stage_model
from latentctl.spec.model import TokenizerInit

TEXTS = [
    "The ball is under cup 3. Swap 1 2.\nSwap 4 5: cup 3\n### 3",
    "<<48/2=24>> <think>\n\n  two  spaces,\ttabs\r\n</think> \\boxed{-7}",
    "größer — naïve 日本 _x_ 🎲",
]


def stage(**model: Any) -> Any:
    return stage_model("sft").model_validate(
        {"name": "s", "method": "sft", "model": model, "dataset": {"name": "gsm8k"}}
    )


@pytest.mark.parametrize("kind", ["word", "bpe", "byte"])
def test_gives_back_its_texts(kind: str, tmp_path: Path) -> None:
    tokenizer = train(TokenizerInit(kind=kind, vocab_size=400), TEXTS, max_len=64)  # type: ignore[arg-type]
    assert (tokenizer.pad_token, tokenizer.unk_token, tokenizer.eos_token) == (PAD, UNK, EOS)
    tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
        assert again(text, add_special_tokens=False).input_ids == ids
        assert again.decode([*ids, again.eos_token_id], skip_special_tokens=True) == text
        assert unknown_text(tokenizer, text) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_any_text_comes_back(texts: list[str]) -> None:
    texts = [t.replace("<", "") for t in texts]  # a special token's own name is not text
    if not "".join(texts):
        return
    word = train(TokenizerInit(kind="word"), texts, max_len=64)
    for text in texts:
        assert word.decode(word(text, add_special_tokens=False).input_ids) == text


def test_training_is_deterministic_and_forgets_the_order() -> None:
    for kind in ("word", "bpe"):
        spec = TokenizerInit(kind=kind, vocab_size=300)
        one, two = (train(spec, texts, max_len=8) for texts in (TEXTS, TEXTS[::-1]))
        assert one.get_vocab() == two.get_vocab()
        assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()


def test_bpe_merges_what_is_frequent() -> None:
    spec = TokenizerInit(kind="bpe", vocab_size=300)
    tokenizer = train(spec, ["lantern lantern lantern"], max_len=8)
    assert len(tokenizer("lantern").input_ids) < 3
    assert len(tokenizer) <= 300


def test_a_vocabulary_too_small_is_refused_with_the_number_needed() -> None:
    many = " ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(100))
    with pytest.raises(JobUserError, match=r"needs 103 tokens .* allows 64") as caught:
        train(TokenizerInit(kind="word", vocab_size=64), [many], max_len=8)
    assert "at least 103" in (caught.value.hint or "")
    train(TokenizerInit(kind="word", vocab_size=103), [many], max_len=8)
    for kind in ("bpe", "byte"):
        with pytest.raises(JobUserError, match="at least 259"):
            train(TokenizerInit(kind=kind, vocab_size=258), TEXTS, max_len=8)
    assert len(train(TokenizerInit(kind="byte", vocab_size=259), TEXTS, max_len=8)) == 259


def test_no_text_is_refused() -> None:
    for kind in ("word", "bpe"):
        with pytest.raises(JobUserError, match="no text"):
            train(TokenizerInit(kind=kind, vocab_size=300), [], max_len=8)


def test_names_what_it_does_not_know() -> None:
    word = train(TokenizerInit(kind="word"), ["swap 1 2"], max_len=8)
    assert unknown_text(word, "swap 2 1") is None
    assert unknown_text(word, "swap banana 1") == " banana"
    assert unknown_text(train(TokenizerInit(kind="byte"), [], max_len=8), "banana") is None


def test_trains_only_for_random_models(tmp_path: Path) -> None:
    trained = load_tokenizer(stage(init={"arch": "gpt2", "max_len": 64}), None, lambda: TEXTS)
    assert trained.model_max_length == 64
    trained.save_pretrained(tmp_path)

    def never() -> list[str]:
        raise AssertionError("nothing is to be trained here")

    read = load_tokenizer(stage(init={"arch": "gpt2"}), tmp_path, never)
    assert read.get_vocab() == trained.get_vocab()
    assert (
        load_tokenizer(stage(path="x", tokenizer=str(tmp_path)), None, never).get_vocab() == read.get_vocab()
    )


def test_an_exported_checkpoint_keeps_its_own_tokenizer(tmp_path: Path) -> None:
    """A later stage must not fall back on the recipe's tokenizer: an earlier stage may have added tokens."""
    own, other = tmp_path / "own", tmp_path / "other"
    train(TokenizerInit(kind="word"), ["a b"], max_len=8).save_pretrained(own)
    train(TokenizerInit(kind="word"), ["c d e"], max_len=8).save_pretrained(other)
    recipe = stage(path=str(own), tokenizer=str(other))
    assert "c" in load_tokenizer(recipe, own, lambda: []).get_vocab()
    (own / "latent.json").write_text('{"version": 1}')
    assert "a" in load_tokenizer(recipe, own, lambda: []).get_vocab()


def test_padding_falls_back_to_the_end_and_no_end_is_refused(tmp_path: Path) -> None:
    tokenizer = train(TokenizerInit(kind="byte"), [], max_len=8)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    raw = {k: v for k, v in json.loads(config.read_text()).items() if k != "pad_token"}
    config.write_text(json.dumps(raw))
    read = load_tokenizer(stage(path=str(tmp_path)), tmp_path, lambda: [])
    assert read.pad_token_id == read.eos_token_id
    config.write_text(json.dumps({k: v for k, v in raw.items() if k != "eos_token"}))
    with pytest.raises(JobUserError, match="no end-of-sequence token"):
        load_tokenizer(stage(path=str(tmp_path)), tmp_path, lambda: [])


def test_a_missing_or_empty_directory_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(JobUserError, match="no such model directory"):
        load_tokenizer(stage(path="/nowhere/model"), "/nowhere/model", lambda: [])
    with pytest.raises(JobUserError, match=r"tokenizer .* cannot be read"):
        load_tokenizer(stage(path=str(tmp_path)), tmp_path, lambda: [])
