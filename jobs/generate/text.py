"""From token ids to text while they come, where a marker falls in them, and which ids end an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "�"  # what decoding shows of a character whose bytes have not all come yet


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of generated ids, special tokens shown (a marker may be one), spaces untouched."""
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends an answer: of the generation config, the model's config and the tokenizer."""
    found: set[int] = set()
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(holder, "eos_token_id", None)
        found.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return frozenset(found)


class Stream:
    """Text of a growing list of ids. `push` decodes a short window, not the whole.

    A token is decoded together with the ones before it, since many tokenizers write a token differently at
    the start of a text, and text is held back while its last character is incomplete.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.text = ""
        self._ids: list[int] = []
        self._context = 0  # where the window starts
        self._shown = 0  # ids whose text stands in `text`

    def push(self, token: int) -> str:
        """Add a token; return the text that became certain."""
        self._ids.append(token)
        before = decode(self.tokenizer, self._ids[self._context : self._shown])
        after = decode(self.tokenizer, self._ids[self._context :])
        if after.endswith(_UNFINISHED) or len(after) <= len(before):
            return ""
        new = after[len(before) :]
        self._context, self._shown = self._shown, len(self._ids)
        self.text += new
        return new

    def find(self, texts: Sequence[str], new: str) -> int:
        """Where the first of `texts` stands that ends within the last `new` characters; -1 if none."""
        longest = max(map(len, texts), default=0)
        start = max(0, len(self.text) - len(new) - longest + 1)
        places = [p for t in texts if (p := self.text.find(t, start)) >= 0]
        return min(places, default=-1)


def count_before(tokenizer: Any, ids: Sequence[int], marker: str) -> int | None:
    """How many of `ids` come before the text `marker`; None if it does not occur. Decodes O(log n)
    prefixes."""
    place = decode(tokenizer, ids).find(marker)
    if place < 0:
        return None
    low, high = 0, len(ids)  # the largest prefix whose text ends at or before the marker's start
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(tokenizer, ids[:middle])) <= place:
            low = middle
        else:
            high = middle - 1
    return low
