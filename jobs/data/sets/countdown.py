"""Countdown: reach a target from given numbers with + - * /, each number exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from jobs.data.example import Example
from jobs.data.expressions import ExpressionError, solves, work_out
from jobs.data.fields import RowError, kind, need, scalar, text, whole
from jobs.data.registry import Files, Form, register
from jobs.data.solver import solve
from latentctl.spec.base import Spec

INSTRUCTION = "The answer is an expression over all the given numbers, each used exactly once."


class Options(Spec):
    """Settings of `countdown`."""

    solve: bool = Field(default=False)
    """Find a solution of rows that come without one (to train on them): about a millisecond a row."""


def countdown(nums: Sequence[int], target: int, expression: str | None, id: str = "", **meta: Any) -> Example:
    """An example in our words. `expression` is a known solution; its operations become the steps."""
    question = f"Use the numbers {', '.join(map(str, nums))} and the operations + - * / to make {target}."
    steps: tuple[str, ...] = ()
    if expression is not None:
        try:
            steps = work_out(expression)[1]
        except ExpressionError as error:
            raise RowError(f"the solution cannot be used: {error}") from error
        if not solves(expression, nums, target):
            raise RowError(f"the solution {expression!r} does not make {target} of {list(nums)}")
    return Example(id, question, expression or "", steps, {"nums": list(nums), "target": target, **meta})


def _numbers(row: Mapping[str, Any], key: str) -> list[int]:
    value = need(row, key)
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, list):
        raise RowError(f"the field {key!r} must be a list of whole numbers, this is {kind(value)}")
    try:
        numbers = [whole({key: n}, key) for n in value]
    except RowError:
        raise RowError(f"the field {key!r} must be a list of whole numbers, it is {value!r}") from None
    if len(numbers) < 2:
        raise RowError(f"the field {key!r} holds {len(numbers)} numbers: at least two are needed")
    return numbers


def _solution(row: Mapping[str, Any], key: str) -> str | None:
    given = isinstance(row.get(key), str) and row[key].strip()
    return outer_free(text(row, key).strip()) if given else None


def _complete(example: Example, options: Options) -> Example:
    if example.answer or not options.solve:
        return example
    nums, target = example.meta["nums"], example.meta["target"]
    found = solve(nums, target)
    if found is None:
        raise RowError(f"there is no solution: {target} cannot be made of {nums}")
    return replace(countdown(nums, target, found, example.id), meta=example.meta)


def outer_free(expression: str) -> str:
    """Without a pair of parentheses around the whole: "(1+(2*3))" gives "1+(2*3)"."""
    if not (expression.startswith("(") and expression.endswith(")")):
        return expression
    depth = 0
    for position, sign in enumerate(expression):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth == 0 and position < len(expression) - 1:
            return expression
    return expression[1:-1]


def _plain(row: Mapping[str, Any], options: Options) -> Example:
    nums, target = _numbers(row, "nums"), whole(row, "target")
    id = scalar(row, "id") if "id" in row else ""
    return countdown(nums, target, _solution(row, "answer"), id)


def _solved(row: Mapping[str, Any], options: Options) -> Example:
    nums, target = _numbers(row, "numbers"), whole(row, "target")
    id = scalar(row, "id") if "id" in row else ""
    return countdown(nums, target, _solution(row, "gold_expr"), id)


def _pairs(row: Mapping[str, Any], options: Options) -> Example:
    nums, target = _numbers(row, "input"), whole(row, "output")
    return countdown(nums, target, None)


register(
    Files(
        "countdown",
        "make a target from given numbers with + - * /",
        grader="countdown",
        instruction=INSTRUCTION,
        options=Options,
        forms=(
            Form(("nums", "target"), _plain, "nums, target (and id, answer)"),
            Form(("numbers", "target"), _solved, "numbers, target, gold_expr"),
            Form(("input", "output"), _pairs, "input '30,100,93', output '23'"),
        ),
        files={
            "train": ("train", "raw_train"),
            "valid": ("valid", "val_200"),
            "test": ("test", "test_with_solver_answers", "raw_test"),
        },
        hub={"train": ("Jiayi-Pan/Countdown-Tasks-3to4", None, "train")},
        complete=_complete,
    )
)
