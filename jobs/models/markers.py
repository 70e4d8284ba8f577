"""Markers around latent spans: tokens where they need to be, and rows for them in the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from jobs.models.tokenizer import unknown_text
from jobs.runtime.errors import JobUserError

_SPECIAL = re.compile(r"<\|[^<>|\s]+\|>")
"""Texts of this form are tokens of their own; every other marker is ordinary text."""


def add_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The token ids of each marker; texts of the form `<|...|>` become special tokens where they are not.

    Every other marker (`<<`, `<think>`) is taken as the tokenizer writes it, which may be several tokens.
    Calling it again changes nothing. Raises JobUserError for a marker that the tokenizer cannot write.
    """
    new = [t for t in dict.fromkeys(texts) if _SPECIAL.fullmatch(t) and len(_ids(tokenizer, t)) != 1]
    unknown = tokenizer.unk_token_id
    new += [
        t
        for t in dict.fromkeys(texts)
        if t not in new and _SPECIAL.fullmatch(t) and unknown is not None and _ids(tokenizer, t) == (unknown,)
    ]
    if new:
        tokenizer.add_special_tokens({"additional_special_tokens": new}, replace_extra_special_tokens=False)
    found = {}
    for text in texts:
        ids = _ids(tokenizer, text)
        piece = unknown_text(tokenizer, text)
        if not ids or piece is not None:
            raise JobUserError(
                f"the tokenizer cannot write the marker {text!r}"
                + (f": it does not know {piece!r}" if piece else ""),
                hint="write it as <|name|>, which becomes a token of its own, or choose markers from the "
                "task's text",
                where="latent.markers",
            )
        found[text] = ids
    return found


def add_markers(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], init: str | None
) -> dict[str, tuple[int, ...]]:
    """`add_tokens`, with rows for the new tokens in the model's embeddings (and in an untied head).

    A new row is a copy of the row of `init`'s first token (Coconut: `<<`), of the head's in the head; with
    `init` null or unknown to the tokenizer the mean of the rows in use. Tokens that were there before keep
    their rows. Call it before DeepSpeed takes the model. Raises JobUserError.
    """
    before = len(tokenizer)
    found = add_tokens(tokenizer, texts)
    after = len(tokenizer)
    new = range(before, after)
    if not new:
        return found
    if any(hasattr(p, "ds_id") for p in model.parameters()):
        raise RuntimeError("markers are added before ZeRO-3 shares the weights out")
    if after > model.get_input_embeddings().num_embeddings:
        # transformers would draw the new rows itself (and the mean of all rows, padding included)
        model.resize_token_embeddings(after, mean_resizing=False)
    source = _source(tokenizer, init)
    tables = {id(t): t for t in (model.get_input_embeddings().weight, _head_weight(model)) if t is not None}
    with torch.no_grad():
        for table in tables.values():
            _fill(table, new, source)
    return found


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _source(tokenizer: PreTrainedTokenizerBase, init: str | None) -> int | None:
    if not init or unknown_text(tokenizer, init) is not None:
        return None
    ids = _ids(tokenizer, init)
    return ids[0] if ids else None


def _head_weight(model: Any) -> Tensor | None:
    head = model.get_output_embeddings()
    return None if head is None else head.weight


def _fill(table: Tensor, new: range, source: int | None) -> None:
    row = table[source] if source is not None else table[: new.start].float().mean(0).to(table.dtype)
    table[new.start : new.stop] = row.clone()
