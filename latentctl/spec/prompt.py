"""How a problem is put to the model and what it is to answer: shared by training and evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from latentctl.spec.base import Spec


class Markers(Spec):
    """Texts that open and close the reasoning."""

    start: str = Field(default="<think>", min_length=1)
    end: str = Field(default="</think>", min_length=1)


def _named_markers(value: Any) -> Any:
    return {"start": "<think>", "end": "</think>"} if value == "think" else value


class PromptSpec(Spec):
    """The template and the form of the answer. A checkpoint carries it, so that its evaluation repeats it."""

    template: Literal["auto", "chat", "plain"] = "auto"
    """`chat`: the tokenizer's chat template; `plain`: question, newline, answer; `auto`: chat where there is
    one."""
    system: str = "none"
    """`none`, `general`, `reasoning`, or the text of a system prompt itself."""
    form: Literal["plain", "xml", "coconut", "answer"] = "plain"
    """How an answer is laid out. `plain`: reasoning between the markers, then \\boxed{answer}; `xml`: <think>
    and <answer> blocks; `coconut`: one step a line, then `### answer`; `answer`: the answer alone, no
    reasoning."""
    markers: Annotated[
        Markers, BeforeValidator(_named_markers, json_schema_input_type=Markers | Literal["think"])
    ] = Field(default_factory=Markers)
    """`think`, or `{start: "<<", end: ">>"}`; used by the form `plain` and by the think budget."""
    instruction: bool = True
    """Put the dataset's format instruction into the prompt (forms `plain` and `xml`)."""
