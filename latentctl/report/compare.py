"""Evaluations against one of them, problem by problem: the difference with its interval, and what makes it
unfair. Reads result.json, spec.json and samples.jsonl."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latentctl.record.paths import StagePaths
from latentctl.report.evals import Evaluation, data_text, ungraded
from latentctl.report.intervals import Interval, paired_difference
from latentctl.report.text import percent

MARKS = {
    "u": "unfinished or unreadable",
    "r": "a debug run",
    "d": "other data",
    "n": "not the same number of problems",
    "p": "another prompt",
    "g": "another grader",
    "s": "other sampling",
    "b": "another token budget",
    "t": "timed under other conditions",
    "e": "answers that could not be graded",
    "w": "the evaluation warns",
    "x": "result.json and samples.jsonl disagree",
}
"""Letter -> what it says of a row."""
_BUDGET = ("max_new_tokens", "max_think_tokens")
_SAME = 1e-6


@dataclass(frozen=True)
class Graded:
    """What samples.jsonl says of one problem."""

    share: float
    """Of its samples that are correct."""
    samples: int
    content: bytes
    """Digest of question and gold answer."""
    prompt: bytes
    """Digest of the prompt's text, without a start marker at its end."""


@dataclass(frozen=True)
class Mark:
    """What makes a row's numbers or its difference not quite what they seem."""

    letter: str
    text: str


@dataclass
class Row:
    """One evaluation, and how it differs from the baseline over the problems that both have."""

    number: int
    evaluation: Evaluation
    marks: list[Mark] = field(default_factory=list)
    difference: float | None = None
    """Accuracy minus the baseline's, over the common problems; None: the baseline itself, or refused."""
    bounds: Interval | None = None
    common: int | None = None
    better: int | None = None
    """Problems with a larger share of correct samples than the baseline's."""
    worse: int | None = None

    @property
    def letters(self) -> str:
        return "".join(sorted({mark.letter for mark in self.marks}))


def compare(evaluations: Sequence[Evaluation], baseline: int = 0) -> list[Row]:
    """Every evaluation, in order, against the one at place `baseline`."""
    rows = [Row(i, one) for i, one in enumerate(evaluations, 1)]
    base = rows[baseline]
    markers = {marker for one in evaluations if (marker := _start_marker(one.numbers))}
    reference = _graded(base, markers)
    for row in rows:
        mine = reference if row is base else _graded(row, markers)
        _alone(row, mine)
        if row is not base and row.evaluation.numbers:
            _against(row, mine, base, reference)
    return rows


Problems = Mapping[str, Graded]


def _graded(row: Row, markers: Collection[str]) -> Problems | str:
    one = row.evaluation
    if not one.numbers or one.paths is None:
        return one.lacking
    return read_graded(one.paths, markers)


def read_graded(paths: StagePaths, markers: Collection[str] = ()) -> Problems | str:
    """Problem id -> its verdicts; or, in words, why there are none to read. `markers`: a latent span that
    begins at once belongs to the method, not to the prompt that all are given."""
    groups: dict[str, list[Any]] = {}
    try:
        with open(paths.samples, "rb") as lines:
            for line in lines:
                if line.strip():
                    _add(groups, json.loads(line), markers)
    except FileNotFoundError:
        return "samples.jsonl is not there"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "samples.jsonl is damaged"
    return {id: Graded(right / n, n, content, prompt) for id, (right, n, content, prompt) in groups.items()}


def _add(groups: dict[str, list[Any]], row: Mapping[str, Any], markers: Collection[str]) -> None:
    group = groups.get(row["id"])
    if group is None:
        prompt = str(row.get("prompt", "")).rstrip()
        marker = next((m for m in markers if prompt.endswith(m)), "")
        prompt = prompt.removesuffix(marker).rstrip()
        content = _digest([row.get("question"), row.get("gold")])
        group = groups[row["id"]] = [0, 0, content, _digest(prompt)]
    group[0] += row["verdict"] == "correct"
    group[1] += 1


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).digest()


def _start_marker(numbers: Mapping[str, Any]) -> str:
    """Of a latent span that begins right after the prompt."""
    latent = numbers.get("latent") or {}
    return (latent.get("markers") or {}).get("start") or "" if latent.get("start") != "model" else ""


def _alone(row: Row, mine: Problems | str) -> None:
    """Marks of a row, whatever it stands beside."""
    one = row.evaluation
    if not one.numbers:
        row.marks.append(Mark("u", one.lacking))
        return
    if one.debug:
        row.marks.append(Mark("r", "a debug run: a few problems only"))
    errors = ungraded(one.numbers.get("graded_errors") or 0)
    if errors:
        row.marks.append(Mark("e", errors))
    row.marks += [Mark("w", words) for words in one.numbers.get("warnings") or []]
    if isinstance(mine, str):
        row.marks.append(Mark("u", f"{mine}: no difference"))
        return
    accuracy = sum(p.share for p in mine.values()) / len(mine) if mine else 0.0
    said, n = one.numbers["accuracy"], one.numbers.get("n")
    if abs(accuracy - said) > _SAME or n not in (None, len(mine)):
        words = (
            f"samples.jsonl says {percent(accuracy)} % of {len(mine)}, result.json {percent(said)} % of {n}"
        )
        row.marks.append(Mark("x", words))


def _against(row: Row, mine: Problems | str, base: Row, reference: Problems | str) -> None:
    """The difference over the problems in common, and marks for what is not the same."""
    there = f"{base.number} has"
    if base.evaluation.numbers:
        row.marks += _settings(row.evaluation, base.evaluation, there)
    if isinstance(mine, str):
        return
    if isinstance(reference, str):
        row.marks.append(Mark("u", f"no difference: {base.number} has none to compare with ({reference})"))
        return
    shared = [id for id in mine if id in reference]
    common = [id for id in shared if mine[id].content == reference[id].content]
    row.common = len(common)
    names = f"{data_text(row.evaluation)}, {there} {data_text(base.evaluation)}"
    if not common:
        row.marks.append(Mark("d", f"no problem in common, no difference: {names}"))
        return
    if len(common) < len(shared):
        words = (
            f"{len(shared) - len(common)} problems have the same id and another question or answer: {names}"
        )
        row.marks.append(Mark("d", words))
    if not len(common) == len(mine) == len(reference):
        words = (
            f"compared on the {len(common)} problems in common: it has {len(mine)}, {there} {len(reference)}"
        )
        row.marks.append(Mark("n", words))
    prompts = [id for id in common if mine[id].prompt != reference[id].prompt]
    if prompts:
        words = f"another prompt for {len(prompts)} of {len(common)} problems, such as {prompts[0]}"
        row.marks.append(Mark("p", words))
    pairs = [(mine[id].share, reference[id].share) for id in common]
    row.difference = sum(a - b for a, b in pairs) / len(pairs)
    row.bounds = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
    row.better = sum(a > b for a, b in pairs)
    row.worse = sum(a < b for a, b in pairs)


def _settings(one: Evaluation, base: Evaluation, there: str) -> Iterator[Mark]:
    """Grader, sampling, budget, conditions."""
    pairs: tuple[tuple[str, Callable[[Evaluation], Mapping[str, Any] | None]], ...] = (
        ("g", lambda e: {"grader": e.numbers.get("grader")}),
        ("s", lambda e: _sampling(e, budget=False)),
        ("b", lambda e: _sampling(e, budget=True)),
        ("t", lambda e: e.conditions),
    )
    for letter, of in pairs:
        words = _unlike(of(one), of(base), there)
        if words:
            yield Mark(letter, words)


def _sampling(one: Evaluation, *, budget: bool) -> dict[str, Any] | None:
    """How text was drawn, or how much of it at most; without the seed. None where it is not recorded."""
    said = one.numbers.get("sampling") or one.spec.get("sampling")
    if not said:
        return None
    return {k: v for k, v in said.items() if (k in _BUDGET) == budget and k != "seed"}


def _unlike(mine: Mapping[str, Any] | None, reference: Mapping[str, Any] | None, there: str) -> str:
    """What differs, in words; a key that only one of them knows was not recorded by the other's version."""
    if mine is None or reference is None:
        return "recorded for neither" if mine is reference else "recorded for one of them only"
    keys = [k for k in mine if k in reference and mine[k] != reference[k]]
    keys = [k for k in keys if k in _BUDGET or None not in (mine[k], reference[k])]
    return ", ".join(f"{k} {_text(mine[k])} ({there} {_text(reference[k])})" for k in keys)


def _text(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
