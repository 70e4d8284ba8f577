"""Tokenizers for random small models, trained on the task's own text. Deterministic; no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from jobs.runtime.errors import JobUserError
from latentctl.spec.model import TokenizerInit

PAD, UNK, EOS = "<pad>", "<unk>", "<eos>"
SPECIALS = [PAD, UNK, EOS]
_PIECES = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s"
"""A word, one digit or one sign, each with the space before it, or one other white space: joined they are
the text."""


def train(spec: TokenizerInit, texts: Iterable[str], *, max_len: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `spec.kind` that gives back every one of `texts` unchanged. Raises JobUserError."""
    make = {"word": _word, "bpe": _bpe, "byte": _byte}[spec.kind]
    tokenizer = make(spec, texts)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=EOS,
        model_max_length=max_len,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def _word(spec: TokenizerInit, texts: Iterable[str]) -> Tokenizer:
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in split.pre_tokenize_str(text))
    _some(counts)
    needed = len(counts) + len(SPECIALS)
    if needed > spec.vocab_size:
        raise JobUserError(
            f"a word tokenizer needs {needed} tokens for the text of this task, "
            f"vocab_size allows {spec.vocab_size}",
            hint=f"set model.tokenizer.vocab_size to at least {needed}, or model.tokenizer.kind to bpe",
        )
    pieces = sorted(counts, key=lambda piece: (-counts[piece], piece))
    vocab = {piece: i for i, piece in enumerate([*SPECIALS, *pieces])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=UNK))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _alphabet(spec: TokenizerInit) -> list[str]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    if spec.vocab_size < len(letters) + len(SPECIALS):
        raise JobUserError(
            f"a {spec.kind} tokenizer needs at least {len(letters) + len(SPECIALS)} tokens "
            f"(256 bytes and {len(SPECIALS)} special ones), vocab_size is {spec.vocab_size}",
            hint="raise model.tokenizer.vocab_size, or set model.tokenizer.kind to word",
        )
    return letters


def _bpe(spec: TokenizerInit, texts: Iterable[str]) -> Tokenizer:
    letters = _alphabet(spec)
    tokenizer = _byte_level(models.BPE())
    # One text counts once however often it comes, and the order of the texts is of no account: both keep the
    # merges the same on every rank and in every resume.
    unique = sorted(set(texts))
    _some(unique)
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(unique, trainer)
    return tokenizer


def _byte(spec: TokenizerInit, texts: Iterable[str]) -> Tokenizer:
    vocab = {token: i for i, token in enumerate([*SPECIALS, *_alphabet(spec)])}
    tokenizer = _byte_level(models.BPE(vocab, merges=[]))
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def _some(found: Counter[str] | list[str]) -> None:
    if not found:
        raise JobUserError("there is no text to train a tokenizer on: the dataset is empty")
