"""Whether text survives the tokenizer, and what a chat template adds to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jobs.data.example import Example
from jobs.data.render import Renderer, Target
from latentctl.record.findings import Level

Said = tuple[Level, str, str | None]
"""(level, message, hint)."""
_SHOWN = 60


def round_trip(renderer: Renderer, examples: Sequence[Example], target: Target, steps: str) -> Iterator[Said]:
    """Prompt and target of each example to tokens and back. Raises JobUserError where they cannot be
    rendered."""
    tokenizer = renderer.tokenizer
    lost: list[str] = []
    doubled = 0
    for example in examples:
        text, ids = renderer.prompt(example)
        rows = [(text, ids[len(renderer.prefix_ids) :])]
        if example.answer:
            row = renderer.row(example, target, steps)
            rows.append((renderer.target_text(example, target, steps), list(row.target_ids[:-1])))
        lost += [change for text, ids in rows if (change := _change(tokenizer, text, ids)) is not None]
        start = tokenizer.bos_token_id
        doubled += start is not None and ids[:2] == [start, start]
    template = "the chat template" if renderer.chat else "plain text"
    if doubled:
        yield (
            "warning",
            f"{doubled} of {len(examples)} prompts begin with two begin-of-sequence tokens",
            "the chat template writes one, and the tokenizer adds another",
        )
    if lost:
        yield (
            "warning",
            f"{len(lost)} texts come back otherwise from the tokenizer, such as {lost[0]}",
            "the model cannot see, or write, what its tokenizer changes",
        )
    elif not doubled:
        yield "ok", f"{len(examples)} rows survive the tokenizer, by {template}", None
    if renderer.chat:
        yield from _ending(renderer, examples)


def _change(tokenizer: Any, text: str, ids: Sequence[int]) -> str | None:
    """Where a text differs after encoding and decoding; None where it does not."""
    back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back == text:
        return None
    at = next(
        (i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back))
    )
    piece = slice(max(0, at - 10), at + 10)
    return f"{text[piece][:_SHOWN]!r}, which becomes {back[piece][:_SHOWN]!r}"


def _ending(renderer: Renderer, examples: Sequence[Example]) -> Iterator[Said]:
    """A template that ends an answer otherwise than by the end-of-sequence token teaches two ends."""
    tokenizer = renderer.tokenizer
    if not examples:
        return
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    ending = whole[whole.rindex("!") + 1 :].strip()
    if ending and not ending.startswith(tokenizer.eos_token):
        yield (
            "warning",
            f"the chat template ends an answer with {ending[:_SHOWN]!r}, "
            f"the tokenizer's end-of-sequence token is {tokenizer.eos_token!r}",
            "training teaches the latter; a checkpoint that was tuned to the former may not stop",
        )
