"""A first question, put as the checkpoint was trained to be asked."""

from __future__ import annotations

from typing import Any

from jobs.data.example import Example
from jobs.data.render import Renderer
from latentctl.spec.prompt import PromptSpec

QUESTION = "What is 7 times 8?"
_ROOM = 256


def example(tokenizer: Any, carried: dict[str, Any], longest: int) -> dict[str, Any]:
    """The body of a request, the model's name aside: `messages` where the tokenizer has a chat template, else
    `prompt`. `longest`: prompt and answer together, in tokens."""
    return {**_asked(tokenizer, carried), "max_tokens": max(1, min(_ROOM, longest // 2))}


def _asked(tokenizer: Any, carried: dict[str, Any]) -> dict[str, Any]:
    if carried.get("prompt"):
        renderer = Renderer(tokenizer, PromptSpec.model_validate(carried["prompt"]))
        if not renderer.chat:
            return {"prompt": renderer.prompt_text(Example("", QUESTION, ""))}
        system, content = renderer.system, QUESTION + renderer.suffix
    elif getattr(tokenizer, "chat_template", None):
        system, content = "", QUESTION
    else:
        return {"prompt": f"{QUESTION}\n"}
    before = [{"role": "system", "content": system}] if system else []
    return {"messages": [*before, {"role": "user", "content": content}]}
