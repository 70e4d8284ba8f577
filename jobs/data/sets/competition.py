"""Competition mathematics: MATH, MATH-500, AIME, AMC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from jobs.data.boxed import last_boxed
from jobs.data.example import Example
from jobs.data.fields import RowError, kind, need, plain_number, scalar, text, whole
from jobs.data.registry import Files, Form, register
from latentctl.spec.base import Spec

_LATEX = "The answer is a number or a LaTeX expression."
_INTEGER = "The answer is a whole number; write it in digits alone."


def _lines(solution: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in solution.split("\n") if line.strip())


def _about(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {k: row[k] for k in keys if isinstance(row.get(k), str | int)}


def chat_question(row: Mapping[str, Any]) -> str:
    """The question of a row `{"prompt": [{"from": "user", "value": ...}], "final_answer": ...}`."""
    turns = need(row, "prompt")
    if isinstance(turns, str):
        return text(row, "prompt")
    if not isinstance(turns, list) or len(turns) != 1 or not isinstance(turns[0], dict):
        raise RowError(f"the field 'prompt' must be a text or a list of one turn, this is {kind(turns)}")
    return text(turns[0], "value" if "value" in turns[0] else "content")


def _math(row: Mapping[str, Any], options: Any) -> Example:
    """MATH: the gold is the last boxed expression of the solution, unless the row says it itself."""
    solution = text(row, "solution")
    answer = scalar(row, "answer") if "answer" in row else last_boxed(solution)
    if not answer:
        raise RowError("the field 'solution' has no \\boxed{} answer")
    id = scalar(row, "unique_id") if "unique_id" in row else ""
    meta = _about(row, "subject", "type", "level")
    return Example(id, text(row, "problem"), answer, _lines(solution), meta)


def _chat(row: Mapping[str, Any], options: Any) -> Example:
    return Example("", chat_question(row), scalar(row, "final_answer"))


class AimeOptions(Spec):
    """Settings of `aime`."""

    years: list[int] | None = Field(default=None, min_length=2, max_length=2)
    """First and last year; 1983 to 2023 if unsaid for rows that name their year (the train file may hold
    more).
    """

    @model_validator(mode="after")
    def _ordered(self) -> AimeOptions:
        if self.years and self.years[0] > self.years[1]:
            raise ValueError(f"years are [first, last], not {self.years}")
        return self


def _contest_answer(row: Mapping[str, Any], key: str) -> str:
    """A whole number from 0 to 999, leading zeros dropped."""
    answer = plain_number(scalar(row, key))
    if not answer.isdigit() or int(answer) > 999:
        raise RowError(f"the field {key!r} must be a whole number from 0 to 999, it is {row[key]!r}")
    return answer


def _aime_year(row: Mapping[str, Any], options: AimeOptions) -> list[Example]:
    first, last = options.years or [1983, 2023]
    year = whole(row, "Year")
    if not first <= year <= last:
        return []
    answer = _contest_answer(row, "Answer")
    return [Example(scalar(row, "ID"), text(row, "Question"), answer, meta={"year": year})]


def _aime_upper(row: Mapping[str, Any], options: AimeOptions) -> Example:
    steps = _lines(text(row, "Solution", empty=True)) if isinstance(row.get("Solution"), str) else ()
    return Example(scalar(row, "ID"), text(row, "Problem"), _contest_answer(row, "Answer"), steps)


def _aime_problem(row: Mapping[str, Any], options: AimeOptions) -> Example:
    steps = _lines(text(row, "solution", empty=True)) if isinstance(row.get("solution"), str) else ()
    return Example(
        "", text(row, "problem"), _contest_answer(row, "answer"), steps, _about(row, "url", "year")
    )


def _aime_question(row: Mapping[str, Any], options: AimeOptions) -> Example:
    return Example("", text(row, "question"), _contest_answer(row, "answer"))


def _aime_chat(row: Mapping[str, Any], options: AimeOptions) -> Example:
    return Example("", chat_question(row), _contest_answer(row, "final_answer"))


def _amc(row: Mapping[str, Any], options: Any) -> Example:
    question = text(row, "problem") if "problem" in row else text(row, "question")
    return Example("", question, plain_number(scalar(row, "answer")))


def _amc_chat(row: Mapping[str, Any], options: Any) -> Example:
    return Example("", chat_question(row), plain_number(scalar(row, "final_answer")))


_CHAT = ("prompt", "final_answer")

register(
    Files(
        "math",
        "MATH: competition problems with worked solutions",
        grader="math",
        instruction=_LATEX,
        forms=(Form(("problem", "solution"), _math, "problem, solution with \\boxed{} gold"),),
        files={"train": ("train", "math_train"), "test": ("test", "math_test")},
        folders=("MATH", "hendrycks_math"),
        hub={s: ("DigitalLearningGmbH/MATH-lighteval", None, s) for s in ("train", "test")},
    )
)
register(
    Files(
        "math500",
        "MATH-500: 500 problems of the MATH test set",
        grader="math",
        instruction=_LATEX,
        forms=(
            Form(("problem", "solution"), _math, "problem, solution, answer, subject, level, unique_id"),
            Form(_CHAT, _chat, "prompt, final_answer"),
        ),
        files={"test": ("test", "math500_test", "math500", "math500_soft_thinking")},
        folders=("MATH-500", "math-500", "math"),
        hub={"test": ("HuggingFaceH4/MATH-500", None, "test")},
    )
)
register(
    Files(
        "aime",
        "AIME: train is 1983 to 2023, test is 2024 and 2025 (30 problems each)",
        grader="math",
        instruction=_INTEGER,
        options=AimeOptions,
        forms=(
            Form(
                ("ID", "Year", "Question", "Answer"),
                _aime_year,
                "CSV: ID, Year, Problem Number, Question, Answer",
            ),
            Form(("ID", "Problem", "Answer"), _aime_upper, "ID, Problem, Solution, Answer"),
            Form(("problem", "answer"), _aime_problem, "problem, solution, answer"),
            Form(("question", "answer"), _aime_question, "question, answer"),
            Form(_CHAT, _aime_chat, "prompt, final_answer"),
        ),
        files={
            "train": ("train", "1983-2023", "1983-2024", "AIME_Dataset_1983_2024"),
            "test": ("test", ("2024", "2025"), ("aime24_test", "aime2025"), ("aime2024", "aime2025")),
            "2024": ("2024", "aime24_test", "aime2024", "aime24"),
            "2025": ("2025", "aime2025", "aime25", "aime25_test"),
        },
        folders=("AIME", "aime_amc"),
        hub={
            "train": ("di-zhang-fdu/AIME_1983_2024", None, "train"),
            "2024": ("HuggingFaceH4/aime_2024", None, "train"),
            "2025": ("yentinglin/aime_2025", None, "train"),
        },
    )
)
register(
    Files(
        "amc",
        "AMC 2023, those with a numeric answer",
        grader="math",
        instruction=_INTEGER,
        forms=(
            Form(("problem", "answer"), _amc, "problem, answer"),
            Form(("question", "answer"), _amc, "question, answer"),
            Form(_CHAT, _amc_chat, "prompt, final_answer"),
        ),
        files={"test": ("test", "amc23_test", "amc23")},
        folders=("AMC", "amc23", "aime_amc"),
        hub={"test": ("math-ai/amc23", None, "test")},
    )
)
