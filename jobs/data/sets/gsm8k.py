"""GSM8K: the original form, TokenSkip's, and the step-by-step (iCoT) and Coconut forms of its augmented
version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from jobs.data.example import Example
from jobs.data.fields import RowError, clean, plain_number, scalar, text, texts
from jobs.data.registry import Files, Form, NoOptions, register

_FORMULA = re.compile(r"<<[^<>]*>>")
_BORDER = re.compile(r"[.!?](?!\d)|\n")
_RESULT = re.compile(r"[$€£]?-?[\d.,]*\d%?")
_INSTRUCTION = "The answer is a number; write it in digits alone, without a unit."


def formula_steps(solution: str) -> tuple[str, ...]:
    """The calculator marks `<<48/2=24>>` of a solution, in order."""
    return tuple(m.group().replace(" ", "") for m in _FORMULA.finditer(solution))


def sentence_steps(solution: str) -> tuple[str, ...]:
    """One sentence per calculator mark, without the marks.

    A step reaches from the end of the one before to the first end of a sentence or line behind its mark, but
    not into the next mark: where two marks share a sentence, it ends behind the first mark's result. Each
    ends with a period.
    """
    marks = list(_FORMULA.finditer(solution))
    steps: list[str] = []
    start = 0
    for mark, following in zip_longest(marks, marks[1:]):
        limit = following.start() if following else len(solution)
        border = _BORDER.search(solution, mark.end(), limit)
        result = _RESULT.match(solution, mark.end(), limit)
        if border:
            end = border.end()
        elif following is None:
            end = limit
        else:
            end = result.end() if result else mark.end()
        step = _FORMULA.sub("", solution[start:end]).strip(" \n,;")
        if step:
            steps.append(step if step.endswith((".", "!", "?")) else step + ".")
        start = end
    return tuple(steps)


def solution_lines(solution: str) -> tuple[str, ...]:
    """The lines of a solution, without the calculator marks."""
    return tuple(line.strip() for line in _FORMULA.sub("", solution).split("\n") if line.strip())


def _solved(question: str, solution: str, answer: str, id: str = "") -> Example:
    variants = {"formula": formula_steps(solution), "sentence": sentence_steps(solution)}
    return Example(id, question, answer, solution_lines(solution), variants=variants)


def _original(row: Mapping[str, Any], options: Any) -> Example:
    solution, mark, answer = text(row, "answer").rpartition("####")
    if not mark or not answer.strip():
        raise RowError("the field 'answer' has no '#### ' with a final answer behind it")
    return _solved(text(row, "question"), solution, plain_number(answer))


def _with_cot(row: Mapping[str, Any], options: Any) -> Example:
    id = scalar(row, "id") if "id" in row else ""
    return _solved(
        text(row, "question"), text(row, "cot", empty=True), plain_number(scalar(row, "answer")), id
    )


def _stepwise(row: Mapping[str, Any], options: Any) -> Example:
    steps = texts(row, "steps")
    return _stepped(text(row, "question"), steps, scalar(row, "answer"))


def _stepped(question: str, steps: tuple[str, ...], answer: str) -> Example:
    name = "formula" if all(_FORMULA.fullmatch(s) for s in steps) else "sentence"
    return Example("", question, plain_number(answer), steps, variants={name: steps})


def _icot(line: str, options: Any) -> Example:
    """`question||<<a>> <<b>> #### answer`, or sentences in place of the marks."""
    question, bars, rest = line.partition("||")
    if not bars:
        raise RowError("no '||' between question and steps")
    if "||" in rest:
        raise RowError("more than one '||': two rows in one line?")
    body, mark, answer = rest.rpartition("####")
    if not mark or not answer.strip():
        raise RowError("no '#### ' with a final answer at the end of the line")
    if not question.strip():
        raise RowError("the question is empty")
    body = body.replace("####", " ")
    if _FORMULA.search(body):
        steps = tuple(re.findall(r"<<[^<>]*>>|[^\s<]+|<", body))
    else:
        steps = tuple(s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z$\d])", body.strip()) if s)
    return _stepped(clean(question.strip(), "question"), steps, answer.strip())


register(
    Files(
        "gsm8k",
        "grade-school word problems; steps as solution lines, formulas or sentences",
        grader="numeric",
        instruction=_INSTRUCTION,
        forms=(
            Form(("question", "cot", "answer"), _with_cot, "TokenSkip's: question, cot, answer"),
            Form(("question", "steps", "answer"), _stepwise, "Coconut's: question, steps, answer"),
            Form(("question", "answer"), _original, "the original: question, answer with #### gold"),
        ),
        files={"train": ("train", "gsm8k_train", "gsm_train"), "test": ("test", "gsm8k_test", "gsm_test")},
        hub={"train": ("openai/gsm8k", "main", "train"), "test": ("openai/gsm8k", "main", "test")},
        options=NoOptions,
    )
)
register(
    Files(
        "gsm8k-aug",
        "GSM8K with formula steps (iCoT lines `question||steps #### answer`, or Coconut's JSON)",
        grader="numeric",
        instruction=_INSTRUCTION,
        forms=(
            Form(("question", "steps", "answer"), _stepwise, "Coconut's: question, steps, answer"),
            Form(("question", "cot", "answer"), _with_cot, "question, cot, answer"),
            Form((), _icot, "iCoT text: question||steps #### answer"),
        ),
        files={
            "train": ("train", "gsm_train", "derived/train_from_gsm8k", "train_no_aug"),
            "valid": ("valid", "gsm_valid"),
            "test": ("test", "gsm_test"),
        },
        folders=("gsm8k_icot", "gsm8k-icot", "gsm8k_aug"),
        hub={
            "train": ("whynlp/gsm8k-aug", None, "train"),
            "valid": ("whynlp/gsm8k-aug", None, "validation"),
            "test": ("whynlp/gsm8k-aug", None, "test"),
        },
    )
)
