"""From ids to text while they come."""

from __future__ import annotations

import pytest
from engine_harness import byte_tokenizer

from jobs.generate.text import Stream, count_before, decode

TEXTS = ["plain words", "naïve café", "日本語 text", "emoji 🙂🙃 end", "a\n\n  b", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_the_stream_says_what_decoding_the_whole_says(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = Stream(tokenizer)
    said = "".join(stream.push(i) for i in ids)
    assert said == stream.text == text == decode(tokenizer, ids)


def test_half_a_character_is_held_back() -> None:
    tokenizer = byte_tokenizer()
    stream = Stream(tokenizer)
    said = [stream.push(i) for i in tokenizer.encode("x🙂", add_special_tokens=False)]
    assert said == ["x", "", "", "", "🙂"]


def test_a_text_is_found_across_tokens_and_only_where_it_is_new() -> None:
    tokenizer = byte_tokenizer()
    stream = Stream(tokenizer)
    for i in tokenizer.encode("ab\n\nQ", add_special_tokens=False)[:-1]:
        new = stream.push(i)
    assert stream.find(["\n\nQ"], new) == -1
    assert stream.find(["\n\n", "b\n\n"], new) == 1
    assert stream.find(["a"], new) == -1


def test_tokens_before_a_marker() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("日本</think>x</think>", add_special_tokens=False)
    assert count_before(tokenizer, ids, "</think>") == 6
    assert count_before(tokenizer, ids, "<nothing>") is None
    assert count_before(tokenizer, tokenizer.encode("</think>"), "</think>") == 0
