"""A comparison for people (80 columns, or Markdown) and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentctl.report import export
from latentctl.report.compare import MARKS, Row
from latentctl.report.evals import data_text, labels, point_text
from latentctl.report.plot import Point, scatter
from latentctl.report.result import interval, latents, seconds_per_problem, steps, stops, tokens
from latentctl.report.text import Column, number, percent, short, small, table, wrap


def names(rows: Sequence[Row]) -> list[str]:
    """What each row is called, short."""
    ones = [row.evaluation for row in rows]
    return labels([(one.sweep or one.run, point_text(one.varies), one.called) for one in ones])


def points(rows: Sequence[Row]) -> list[Point]:
    """The rows that have an accuracy and a number of steps."""
    ones = [row.evaluation for row in rows]
    series = labels([(one.sweep or one.run, point_text(one.varies), "") for one in ones])
    several = len({one.called for one in ones}) > 1
    found = []
    for row, whose in zip(rows, series, strict=True):
        name, whose = (row.evaluation.called, whose) if several or not whose else (whose, "")
        n = row.evaluation.numbers
        x = steps(n)
        if n and x is not None:
            low, high = n.get("accuracy_ci") or (n["accuracy"], n["accuracy"])
            data = data_text(row.evaluation)
            found.append(Point(str(row.number), name, whose, x, n["accuracy"], low, high, data))
    return found


def text(rows: Sequence[Row], base: Row) -> str:
    """Costs and accuracies, differences, marks, stop causes, and accuracy against steps as a plot."""
    called = names(rows)
    parts = [_costs(rows, called)]
    if len(rows) > 1:
        parts.append(_differences(rows, base, called))
    marks = mark_lines(rows)
    if marks:
        parts.append("\n".join(["marks:", *(wrap(f"  {line}", "       ") for line in marks)]))
    ended: dict[str, list[str]] = {}
    for row in rows:
        ended.setdefault(stops(row.evaluation.numbers), []).append(str(row.number))
    ended.pop("", None)
    if ended:
        parts.append("stopped by:\n" + "\n".join(f"  {', '.join(who)}  {how}" for how, who in ended.items()))
    drawn = points(rows)
    if len(drawn) > 1:
        parts.append(scatter(drawn))
    return "\n\n".join(parts)


def _costs(rows: Sequence[Row], called: Sequence[str]) -> str:
    head = [
        Column("", right=True),
        Column("EVALUATION", elastic=True, middle=True),
        Column("ACCURACY", right=True),
        Column("95 % CI", right=True),
        Column("N", right=True),
        Column("TOKENS", right=True),
        Column("LATENT", right=True),
        Column("S/PROB", right=True),
    ]
    body = []
    for row, name in zip(rows, called, strict=True):
        n = row.evaluation.numbers
        cells = [interval(n.get("accuracy_ci")), number(n.get("n")), short(tokens(n)), short(latents(n))]
        body.append([str(row.number), name, _percent(n), *cells, small(seconds_per_problem(n))])
    return table(head, body)


def _differences(rows: Sequence[Row], base: Row, called: Sequence[str]) -> str:
    head = [
        Column("", right=True),
        Column(f"AGAINST {base.number}", elastic=True, middle=True),
        Column("DIFFERENCE", right=True),
        Column("95 % CI", right=True),
        Column("COMMON", right=True),
        Column("BETTER", right=True),
        Column("WORSE", right=True),
        Column("MARKS"),
    ]
    body = [
        [
            str(row.number),
            name,
            signed(row.difference),
            signed_interval(row),
            number(row.common),
            number(row.better),
            number(row.worse),
            row.letters,
        ]
        for row, name in zip(rows, called, strict=True)
        if row is not base
    ]
    return table(head, body)


def mark_lines(rows: Sequence[Row]) -> list[str]:
    """`2 s  sampling ...`: every mark in words."""
    return [f"{row.number} {mark.letter}  {mark.text}" for row in rows for mark in row.marks]


def markdown(rows: Sequence[Row], base: Row) -> str:
    """One pipe table and the marks below."""
    head = ["", "evaluation", "accuracy (95 % CI)", f"difference to {base.number} (95 % CI)", "common"]
    head += ["tokens", "latent steps", "s/problem", "stopped by", "marks"]
    body = []
    for row, name in zip(rows, names(rows), strict=True):
        n = row.evaluation.numbers
        accuracy = f"{_percent(n)} ({interval(n.get('accuracy_ci'))})" if n else "-"
        difference = "-" if row.difference is None else f"{signed(row.difference)} ({signed_interval(row)})"
        costs = [number(row.common), short(tokens(n)), short(latents(n)), small(seconds_per_problem(n))]
        body.append([str(row.number), name, accuracy, difference, *costs, stops(n) or "-", row.letters])
    notes = [f"- {line}" for line in mark_lines(rows)]
    return "\n".join([export.markdown(head, body, texts=2), *(["", *notes] if notes else [])])


def flat(row: Row, base: Row) -> dict[str, Any]:
    """One row in full precision, for CSV and JSON; None is what is not known."""
    one, n = row.evaluation, row.evaluation.numbers
    accuracy, difference = n.get("accuracy_ci") or (None, None), row.bounds or (None, None)
    return {
        "number": row.number,
        "run": one.run,
        "stage": one.stage,
        "sweep": one.sweep,
        **{f"varies.{k}": v for k, v in one.varies.items()},
        "data": data_text(one),
        "n": n.get("n"),
        "k": n.get("k"),
        "accuracy": n.get("accuracy"),
        "accuracy_low": accuracy[0],
        "accuracy_high": accuracy[1],
        "baseline": base.number,
        "difference": row.difference,
        "difference_low": difference[0],
        "difference_high": difference[1],
        "common": row.common,
        "better": row.better,
        "worse": row.worse,
        "tokens_mean": tokens(n),
        "latents_mean": latents(n),
        "positions_mean": steps(n),
        "seconds_per_problem": seconds_per_problem(n),
        "truncated": n.get("truncated"),
        "graded_errors": n.get("graded_errors"),
        "stop_causes": n.get("stop_causes"),
        "latent_causes": n.get("latent_causes"),
        "marks": row.letters,
        "notes": "; ".join(mark.text for mark in row.marks),
    }


def dump(rows: Sequence[Row], base: Row) -> dict[str, Any]:
    """For `--json`."""
    flats = [{**flat(row, base), "marks": [vars(mark) for mark in row.marks]} for row in rows]
    for one in flats:
        del one["notes"]
    return {"baseline": base.number, "rows": flats, "letters": MARKS}


def _percent(n: Any) -> str:
    return f"{percent(n['accuracy'])} %" if n else "-"


def signed(value: float | None) -> str:
    """A difference in percentage points: `+3.3`."""
    return "-" if value is None else f"{100 * value:+.1f}"


def signed_interval(row: Row) -> str:
    """`-6.1 to +0.4`, in percentage points."""
    return "-" if row.bounds is None else f"{signed(row.bounds[0])} to {signed(row.bounds[1])}"
