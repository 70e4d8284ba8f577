"""Multiple choice: MMLU-STEM and ARC-Challenge. The options become lines `A. ...`; the answer is a letter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from jobs.data.example import Example
from jobs.data.fields import RowError, kind, need, scalar, text, texts, whole
from jobs.data.registry import Files, Form, register

_INSTRUCTION = "The answer is the letter of the right option."
_ADAPTERS_ASK = "Please choose the correct answer to the question: "
_ADAPTERS_OPTION = re.compile(r"(?:^|\s)Answer(\d+): ")


def choice(question: str, choices: Sequence[str], right: int, id: str = "", **meta: Any) -> Example:
    """A multiple-choice example; `right` counts from 0."""
    if not 2 <= len(choices) <= len(ascii_uppercase):
        raise RowError(f"{len(choices)} options: a choice has 2 to {len(ascii_uppercase)}")
    if not 0 <= right < len(choices):
        raise RowError(f"the answer {right} (from 0) is none of the {len(choices)} options")
    lines = [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, choices, strict=False)]
    asked = "\n".join([question.strip(), *lines])
    return Example(id, asked, ascii_uppercase[right], meta={"choices": list(choices), **meta})


def _index(row: Mapping[str, Any], count: int) -> int:
    """The answer as a 0-based index, or as a letter."""
    value = need(row, "answer")
    if (
        isinstance(value, str)
        and len(value.strip()) == 1
        and value.strip().upper() in ascii_uppercase[:count]
    ):
        return ascii_uppercase.index(value.strip().upper())
    return whole(row, "answer")


def _mmlu(row: Mapping[str, Any], options: Any) -> Example:
    choices = texts(row, "choices")
    if len(choices) != len(row["choices"]):
        raise RowError("the field 'choices' holds an empty option")
    subject = row.get("subject", row.get("type"))
    return choice(text(row, "question"), choices, _index(row, len(choices)), subject=subject)


def _adapters(row: Mapping[str, Any], options: Any) -> Example:
    """LLM-Adapters' form: question, options and their format in one instruction text."""
    body = text(row, "instruction").strip()
    asked, _, rest = body.removeprefix(_ADAPTERS_ASK).rpartition("\n\nAnswer1: ")
    listed, _, _ = rest.partition("\n\nAnswer format:")
    if not asked or not listed:
        raise RowError("the field 'instruction' does not list its options as Answer1: ... Answer2: ...")
    parts = _ADAPTERS_OPTION.split("Answer1: " + listed)
    if [int(n) for n in parts[1::2]] != list(range(1, len(parts) // 2 + 1)):
        raise RowError("the options of the field 'instruction' are not numbered 1, 2, 3, ...")
    answer = scalar(row, "answer")
    if not re.fullmatch(r"answer\d+", answer):
        raise RowError(f"the field 'answer' must be answer1, answer2, ..., it is {answer!r}")
    return choice(asked, [p.strip() for p in parts[2::2]], int(answer[6:]) - 1)


def _labelled(
    question: str, labels: Sequence[Any], choices: Sequence[Any], row: Mapping[str, Any]
) -> Example:
    key = scalar(row, "answerKey")
    if not all(isinstance(c, str) for c in choices) or len(labels) != len(choices):
        raise RowError("the field 'choices' must hold texts, each with its label")
    if key not in labels:
        raise RowError(f"the field 'answerKey' is {key!r}, none of the labels {', '.join(map(str, labels))}")
    return choice(question, list(choices), list(labels).index(key), scalar(row, "id") if "id" in row else "")


def _arc_file(row: Mapping[str, Any], options: Any) -> Example:
    """AI2's JSON lines (`question: {stem, choices: [{text, label}]}`, `answerKey`), or the Hub's columns."""
    asked = need(row, "question")
    listed = need(asked, "choices") if isinstance(asked, dict) else need(row, "choices")
    stem = text(asked, "stem") if isinstance(asked, dict) else text(row, "question")
    if isinstance(listed, dict):
        return _labelled(stem, need(listed, "label"), need(listed, "text"), row)
    if not isinstance(listed, list) or not all(isinstance(c, dict) for c in listed):
        raise RowError(f"the field 'choices' must be a list of {{text, label}}, this is {kind(listed)}")
    return _labelled(stem, [need(c, "label") for c in listed], [need(c, "text") for c in listed], row)


register(
    Files(
        "mmlu-stem",
        "MMLU, the science and mathematics subjects",
        grader="choice",
        instruction=_INSTRUCTION,
        forms=(
            Form(("question", "choices", "answer"), _mmlu, "question, choices, answer (from 0, or a letter)"),
        ),
        files={"test": ("test",), "valid": ("valid", "validation", "dev")},
        folders=("mmlu_stem", "MMLU-STEM"),
        hub={"test": ("TIGER-Lab/MMLU-STEM", None, "test")},
    )
)
register(
    Files(
        "arc-challenge",
        "ARC-Challenge: grade-school science questions",
        grader="choice",
        instruction=_INSTRUCTION,
        forms=(
            Form(("question", "answerKey"), _arc_file, "AI2's: question, choices, answerKey"),
            Form(("instruction", "answer"), _adapters, "LLM-Adapters': instruction, input, output, answer"),
        ),
        files={
            "train": ("train", "ARC-Challenge-Train"),
            "valid": ("valid", "validation", "ARC-Challenge-Dev"),
            "test": ("test", "ARC-Challenge-Test"),
        },
        folders=("arc_challenge", "ARC-Challenge"),
        hub={
            "train": ("allenai/ai2_arc", "ARC-Challenge", "train"),
            "valid": ("allenai/ai2_arc", "ARC-Challenge", "validation"),
            "test": ("allenai/ai2_arc", "ARC-Challenge", "test"),
        },
    )
)
