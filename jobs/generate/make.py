"""Which engine serves a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobs.generate.protocol import Engine
from jobs.runtime.errors import JobUserError


def make_engine(
    name: str,
    model: Any,
    tokenizer: Any,
    *,
    max_batch: int,
    max_batch_tokens: int,
    on_step: Callable[[int], bool] | None = None,
) -> Engine:
    """The engine called `name`; `auto` is `transformers`. Raises JobUserError for a model that it cannot
    decode."""
    from jobs.generate.transformers_engine import TransformersEngine

    if name not in ("auto", TransformersEngine.name):
        raise JobUserError(f"no engine is called {name!r}; there is {TransformersEngine.name}")
    try:
        return TransformersEngine(
            model, tokenizer, max_batch=max_batch, max_batch_tokens=max_batch_tokens, on_step=on_step
        )
    except ValueError as error:
        raise JobUserError(str(error)) from error
