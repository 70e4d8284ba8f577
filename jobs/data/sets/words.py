"""Word problems besides GSM8K: SVAMP, and MetaMathQA (rephrased GSM8K and MATH)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jobs.data.example import Example
from jobs.data.fields import RowError, plain_number, scalar, text
from jobs.data.registry import Files, Form, register

_ANSWER = re.compile(r"The answer is:?\s*(.+?)\s*$", re.IGNORECASE)


def _metamath(row: Mapping[str, Any], options: Any) -> Example:
    """`response` ends with "The answer is: X"; a "#### X" line before it belongs to the answer too."""
    response = text(row, "response")
    body, _, last = response.strip().rpartition("\n")
    match = _ANSWER.search(last)
    if match is None:
        raise RowError("the field 'response' does not end with 'The answer is: X'")
    body = f"{body}\n{last[: match.start()]}".strip()
    lines = [line.strip() for line in body.split("\n")]
    steps = tuple(line for line in lines if line and not line.startswith("####"))
    meta = {"type": row["type"]} if isinstance(row.get("type"), str) else {}
    return Example("", text(row, "query"), match.group(1), steps, meta)


def _svamp(row: Mapping[str, Any], options: Any) -> Example:
    body = text(row, "Body").strip()
    question = text(row, "Question").strip()
    answer = plain_number(scalar(row, "Answer"))
    steps: tuple[str, ...] = ()
    if isinstance(row.get("Equation"), str):
        bare = re.sub(r"\d+\.\d+", lambda m: plain_number(m.group()), row["Equation"])
        bare = bare.replace(" ", "").removeprefix("(").removesuffix(")") if bare.count("(") == 1 else bare
        steps = (f"{bare.replace(' ', '')}={answer}",)
    joined = f"{body}{'' if body.endswith(('.', '?', '!', ',')) else '.'} {question}"
    return Example(scalar(row, "ID"), joined, answer, steps)


register(
    Files(
        "metamathqa",
        "MetaMathQA: GSM8K and MATH problems rephrased, with worked answers",
        grader="math",
        instruction="The answer is a number or a LaTeX expression.",
        forms=(Form(("query", "response"), _metamath, "query, response ending in 'The answer is: X'"),),
        files={"train": ("train", "MetaMathQA-395K", "MetaMathQA", "metamathqa")},
        folders=("MetaMathQA", "metamath"),
        hub={"train": ("meta-math/MetaMathQA", None, "train")},
    )
)
register(
    Files(
        "svamp",
        "SVAMP: one-step word problems",
        grader="numeric",
        instruction="The answer is a number; write it in digits alone, without a unit.",
        forms=(Form(("ID", "Body", "Question", "Answer"), _svamp, "ID, Body, Question, Answer, Equation"),),
        files={"train": ("train",), "test": ("test",)},
        folders=("SVAMP",),
        hub={"train": ("ChilleD/SVAMP", None, "train"), "test": ("ChilleD/SVAMP", None, "test")},
    )
)
