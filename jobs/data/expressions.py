"""Arithmetic over whole numbers, worked out step by step with exact fractions. Never evaluated as code."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


class ExpressionError(ValueError):
    """Not an expression of whole numbers, + - * / and parentheses; or a division by zero."""


def work_out(expression: str) -> tuple[Fraction, tuple[str, ...], list[int]]:
    """(value, steps like "3*4=12" from the inside out, numbers used in order). Raises ExpressionError."""
    if len(expression) > 1000:
        raise ExpressionError("the expression is too long")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"not an expression: {expression!r}") from error
    steps: list[str] = []
    numbers: list[int] = []

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            numbers.append(node.value)
            return Fraction(node.value)
        if not isinstance(node, ast.BinOp) or type(node.op) not in _SIGNS:
            raise ExpressionError(f"only whole numbers, + - * / and parentheses: {expression!r}")
        left, right = value(node.left), value(node.right)
        sign = _SIGNS[type(node.op)]
        result = apply(sign, left, right)
        steps.append(f"{operand(left)}{sign}{operand(right)}={result}")
        return result

    return value(tree), tuple(steps), numbers


def apply(sign: str, left: Fraction, right: Fraction) -> Fraction:
    """left SIGN right. Raises ExpressionError for a division by zero."""
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    if right == 0:
        raise ExpressionError("division by zero")
    return left / right


def operand(value: Fraction) -> str:
    """As it stands within a step: negative numbers and fractions in parentheses."""
    return f"({value})" if value < 0 or value.denominator != 1 else str(value)


def solves(expression: str, nums: Sequence[int], target: int) -> bool:
    """Whether the expression uses each of the numbers exactly once and gives the target."""
    try:
        value, _, used = work_out(expression)
    except ExpressionError:
        return False
    return value == target and Counter(used) == Counter(nums)
