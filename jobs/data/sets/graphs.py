"""Reasoning over a graph of invented kinds: ProsQA and ProntoQA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.data.example import Example
from jobs.data.fields import RowError, need, scalar, text, texts, whole
from jobs.data.registry import Files, Form, register

PROSQA_INSTRUCTION = 'The answer is a sentence like "Tom is a lempus."'
_TRUE_FALSE = "The answer is True or False."


def _symbol(row: Mapping[str, Any], symbols: Sequence[str], key: str) -> str:
    index = whole(row, key)
    if not 0 <= index < len(symbols):
        raise RowError(f"the field {key!r} is {index}, but 'idx_to_symbol' has {len(symbols)} names")
    return symbols[index]


def _prosqa(row: Mapping[str, Any], options: Any) -> Example:
    meta: dict[str, Any] = {}
    if "idx_to_symbol" in row:
        symbols = texts(row, "idx_to_symbol")
        meta = {key: _symbol(row, symbols, key) for key in ("root", "target", "neg_target")}
    return Example("", text(row, "question"), text(row, "answer").strip(), texts(row, "steps"), meta)


def _truth(row: Mapping[str, Any], key: str = "answer") -> str:
    value = need(row, key)
    if isinstance(value, bool):
        return str(value)
    if value not in ("True", "False"):
        raise RowError(f"the field {key!r} must be True or False, it is {value!r}")
    return value


def _pronto_steps(row: Mapping[str, Any], options: Any) -> Example:
    return Example("", text(row, "question"), _truth(row), texts(row, "steps"))


def pairs(sentences: Sequence[str]) -> tuple[str, ...]:
    """A chain of thought as steps of two sentences (fact and rule), the last one alone: Coconut's way."""
    return tuple(" ".join(sentences[i : i + 2]) for i in range(0, len(sentences), 2))


def _generated(row: Mapping[str, Any], options: Any) -> list[Example]:
    """The raw generator's form: an object with in_context_example0, ... and test_example."""
    prefix = f"{row['__key__']}/" if "__key__" in row else ""
    names = [k for k in row if k == "test_example" or k.startswith("in_context_example")]
    return [_raw_example(row, name, prefix) for name in names]


def _raw_example(row: Mapping[str, Any], name: str, prefix: str) -> Example:
    item = need(row, name)
    if not isinstance(item, dict):
        raise RowError(f"the field {name!r} must be an object")
    try:
        question = f"{text(item, 'question').strip()} {text(item, 'query').strip()}"
        steps = pairs(texts(item, "chain_of_thought"))
        return Example(prefix + name if prefix else "", question, _truth(item), steps)
    except RowError as error:
        raise RowError(f"{name}: {error}") from None


def _logic_llm(row: Mapping[str, Any], options: Any) -> Example:
    """Logic-LLM's form: context, question, answer A (true) or B (false), explanation."""
    answer = scalar(row, "answer")
    if answer not in ("A", "B"):
        raise RowError(f"the field 'answer' must be A or B, it is {answer!r}")
    claim = text(row, "question").strip().removeprefix("Is the following statement true or false?").strip()
    question = f"{text(row, 'context').strip()} True or false: {claim}"
    steps = pairs(texts(row, "explanation")) if "explanation" in row else ()
    id = scalar(row, "id") if "id" in row else ""
    return Example(id, question, "True" if answer == "A" else "False", steps)


register(
    Files(
        "prosqa",
        "ProsQA: which of two kinds is a named thing, by a chain through a graph?",
        grader="prosqa",
        instruction=PROSQA_INSTRUCTION,
        forms=(Form(("question", "steps", "answer"), _prosqa, "question, steps, answer, the graph"),),
        files={
            "train": ("train", "prosqa_train"),
            "valid": ("valid", "prosqa_valid"),
            "test": ("test", "prosqa_test"),
        },
    )
)
register(
    Files(
        "prontoqa",
        "ProntoQA: is a claim about an invented ontology true?",
        grader="exact",
        instruction=_TRUE_FALSE,
        forms=(
            Form(("question", "steps", "answer"), _pronto_steps, "Coconut's: question, steps, answer"),
            Form(("test_example",), _generated, "the generator's: in_context_exampleN, test_example"),
            Form(("context", "question", "answer"), _logic_llm, "Logic-LLM's: context, question, answer A/B"),
        ),
        files={
            "train": ("train", "prontoqa_train", "345hop_random_true", "5hop_0shot_random"),
            "valid": ("valid", "prontoqa_valid"),
            "test": ("test", "prontoqa_test", "dev", "logic_llm_dev"),
        },
    )
)
