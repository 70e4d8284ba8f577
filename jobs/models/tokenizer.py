"""The tokenizer of a stage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from jobs.models.latent_file import NAME as LATENT_FILE
from jobs.models.source import explain, locate
from jobs.models.vocab import train
from jobs.runtime.errors import JobUserError
from latentctl.spec.model import InitSpec, TokenizerInit
from latentctl.spec.stage import StageBase

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # batches may be prepared in forked processes


def load_tokenizer(
    stage: StageBase, source: Path | str | None, texts: Callable[[], Iterable[str]]
) -> PreTrainedTokenizerBase:
    """The tokenizer that goes with the weights of `source` (None: the stage's random `model.init`).

    What an earlier stage exported carries its own; else the recipe's `model.tokenizer`; else the model's.
    For a random model it is trained on `texts()`, which is called only then and must give the same texts on
    every rank. Padding falls back to the end-of-sequence token. Raises JobUserError.
    """
    model = stage.model
    if source is None and not isinstance(model.tokenizer, str):
        init = model.init or InitSpec()
        return train(model.tokenizer or TokenizerInit(), texts(), max_len=init.max_len)
    exported = source is not None and (Path(source) / LATENT_FILE).is_file()
    own = isinstance(model.tokenizer, str) and not exported
    return _usable(_read(model.tokenizer if own else source, stage, own=own))


def _read(source: Any, stage: StageBase, *, own: bool) -> PreTrainedTokenizerBase:
    place = locate(source)
    revision = stage.model.revision if not own and place == stage.model.path else None
    try:
        return AutoTokenizer.from_pretrained(
            place, revision=revision, trust_remote_code=stage.model.trust_remote_code, padding_side="right"
        )
    except (OSError, ValueError, KeyError, ImportError) as e:
        raise explain(place, "tokenizer", e) from e


def _usable(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    if tokenizer.eos_token_id is None:
        raise JobUserError(
            f"the tokenizer {tokenizer.name_or_path} has no end-of-sequence token: "
            "a model could not learn to stop",
            hint="set eos_token in its tokenizer_config.json",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def unknown_text(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    """The first piece of `text` that `tokenizer` does not know; None where it knows all of it."""
    if tokenizer.unk_token_id in (
        None,
        tokenizer.eos_token_id,
    ):  # GPT-2 names one token for both, and knows all bytes
        return None
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast))
    for i, token in enumerate(encoded["input_ids"]):
        if token == tokenizer.unk_token_id:
            if not tokenizer.is_fast:
                return text
            start, end = encoded["offset_mapping"][i]
            if text[start:end] != tokenizer.unk_token:
                return text[start:end]
    return None
