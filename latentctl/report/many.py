"""The table of many evaluations: the seeds of a point folded into mean and interval; as text, CSV, Markdown,
LaTeX."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from latentctl.errors import UserError
from latentctl.record.sweeps import value_text
from latentctl.report import export
from latentctl.report.evals import (
    Evaluation,
    Target,
    collect,
    data_text,
    labels,
    leaves,
    point_text,
    ungraded,
)
from latentctl.report.intervals import mean_interval
from latentctl.report.plot import NOISED, STEPS, Axis, Point, scatter
from latentctl.report.result import dataset, interval, latents, seconds_per_problem, steps, tokens
from latentctl.report.text import Column, percent, short, small, table, wrap
from latentctl.runs.sweeps import SweepPoint


@dataclass(frozen=True)
class Folded:
    """One evaluation over the seeds of a point; of a run outside a sweep, just that one."""

    many: Sequence[Evaluation]

    @property
    def first(self) -> Evaluation:
        """The first with numbers, else the first."""
        return next((one for one in self.many if one.numbers), self.many[0])

    @property
    def source(self) -> str:
        """The sweep, or the run."""
        return self.first.sweep or self.first.run

    @property
    def finished(self) -> list[Mapping[str, Any]]:
        """The numbers that there are."""
        return [one.numbers for one in self.many if one.numbers]

    @property
    def accuracy(self) -> float | None:
        """Mean over the seeds."""
        return self.mean(lambda n: n["accuracy"])

    @property
    def bounds(self) -> tuple[float, float] | None:
        """95 % interval of the accuracy: over the seeds, and at least as wide as a run's own over its
        problems. More seeds see the same problems, and few seeds may agree by chance."""
        values = [n["accuracy"] for n in self.finished]
        own = [n["accuracy_ci"] for n in self.finished if n.get("accuracy_ci")]
        ends = [tuple(sum(c[i] for c in own) / len(own) for i in (0, 1))] if own else []
        mean, half = mean_interval(values) if values else (0.0, None)
        if half is not None:
            ends.append((max(0.0, mean - half), min(1.0, mean + half)))
        return (min(e[0] for e in ends), max(e[1] for e in ends)) if ends else None

    def mean(self, of: Callable[[Mapping[str, Any]], Any]) -> float | None:
        """Mean over the seeds of `of(numbers)`; None where any finished one lacks it."""
        values = [of(n) for n in self.finished]
        return sum(values) / len(values) if values and None not in values else None

    @property
    def disturbed(self) -> float | None:
        """Mean over the seeds; None where it is not known of all."""
        values = [one.disturbed for one in self.many if one.numbers]
        known = [v for v in values if v is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    @property
    def lacking(self) -> str:
        """Why some have no numbers: `failed, running`; empty where all have."""
        return ", ".join(sorted({one.lacking for one in self.many if one.lacking}))

    @property
    def runs(self) -> str:
        """`3`, or `2 of 3` where not all have numbers."""
        there, asked = len(self.finished), len(self.many)
        return str(there) if there == asked else f"{there} of {asked}"


def fold(many: Iterable[Evaluation]) -> list[Folded]:
    """The points of a sweep with their seeds together; anything else as it is."""
    groups: dict[tuple[str, str, str], list[Evaluation]] = {}
    for one in many:
        point = json.dumps(one.point, sort_keys=True) if one.sweep else ""
        groups.setdefault((one.sweep or one.run, point, one.called), []).append(one)
    return [Folded(group) for group in groups.values()]


def best(rows: Sequence[Folded]) -> set[int]:
    """Places of the rows with the highest accuracy of their dataset, where that has several. Not of debug
    runs."""
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.accuracy is not None and not row.first.debug:
            groups.setdefault(data_text(row.first), []).append(i)
    found: set[int] = set()
    for places in groups.values():
        top = max(rows[i].accuracy or 0.0 for i in places)
        found |= {i for i in places if rows[i].accuracy == top} if len(places) > 1 else set()
    return found


def sweep_table(points: Iterable[SweepPoint], *, colour: bool = False) -> str:
    """The evaluations over the points of a sweep; empty while there is none."""
    aims = [Target(p.run, p.stage, "all", p.varies, shared=p.stage is not None) for p in points]
    try:
        rows = fold(collect(aims))
    except UserError:
        return ""
    if not any(row.finished for row in rows):
        return ""
    plot = plotted(rows)
    return text(rows, colour=colour) + (f"\n\n{plot}" if plot else "")


def text(rows: Sequence[Folded], *, colour: bool = False) -> str:
    """One row for each evaluation of each point: mean and 95 % interval over its seeds."""
    top = best(rows)
    latent = any(row.mean(latents) is not None for row in rows)
    noisy = any(row.disturbed is not None for row in rows)
    seeds = any(len(row.many) > 1 for row in rows)
    sets = {data_text(row.first) for row in rows if row.finished}
    one_set = len(sets) == 1 and len({dataset(row.first.numbers or row.first.spec) for row in rows}) == 1
    head = [
        Column("EVALUATION", elastic=True, middle=True, least=16),
        *([] if one_set else [Column("DATASET", elastic=True, least=6)]),
        *([Column("RUNS", right=True, elastic=True, least=4)] if seeds else []),
        Column("ACCURACY", right=True),
        Column("95 % CI", right=True),
        Column("TOKENS", right=True),
        *([Column("LATENT", right=True)] if latent else []),
        *([Column("NOISED", right=True)] if noisy else []),
        Column("S/PROB", right=True),
    ]
    names = labels([(row.source, point_text(row.first.point), row.first.called) for row in rows])
    body = []
    for i, row in enumerate(rows):
        mark = (" *" if i in top else "  ") if top else ""
        body.append(
            [
                names[i],
                *([] if one_set else [data_text(row.first)]),
                *([row.runs] if seeds else []),
                ("-" if row.accuracy is None else f"{percent(row.accuracy)} %") + mark,
                interval(row.bounds),
                short(row.mean(tokens)),
                *([short(row.mean(latents))] if latent else []),
                *([_share(row.disturbed)] if noisy else []),
                small(row.mean(seconds_per_problem)),
            ]
        )
    above = [f"dataset {next(iter(sets))}"] if one_set else []
    notes = ["* the highest of its dataset"] if top else []
    notes += ["NOISED: share of the latent steps that were disturbed in training"] if noisy else []
    notes += [wrap(note, "  ") for note in _notes(rows)]
    return "\n".join([*above, table(head, body, colour=colour), *notes])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{percent(value)} %"


def panels(rows: Sequence[Folded]) -> dict[Axis, list[Point]]:
    """Accuracy against the share of disturbed latent steps, where it is known, and against steps."""
    names = labels([(row.source, point_text(row.first.point), row.first.called) for row in rows])
    found: dict[Axis, list[Point]] = {NOISED: [], STEPS: []}
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        if row.accuracy is None:
            continue
        low, high = row.bounds or (row.accuracy, row.accuracy)
        for axis, value in ((NOISED, row.disturbed), (STEPS, row.mean(steps))):
            if value is not None:
                point = Point(str(i + 1), name, "", value, row.accuracy, low, high, data_text(row.first))
                found[axis].append(point)
    return {axis: points for axis, points in found.items() if points}


def plotted(rows: Sequence[Folded]) -> str:
    """The same for a terminal, points by their line in the table."""
    parts = [scatter(points, axis) for axis, points in panels(rows).items() if len(points) > 1]
    return "\n\n".join(["points by their line in the table", *parts]) if parts else ""


def caveats(row: Folded) -> list[str]:
    """What a reader of the row's numbers must know."""
    found = [f"no numbers from {len(row.many) - len(row.finished)} of {len(row.many)}: {row.lacking}"]
    found = [] if not row.lacking else found if len(row.many) > 1 else [f"no numbers: {row.lacking}"]
    if any(one.debug for one in row.many):
        found.append("a debug run: a few problems only")
    errors = ungraded(sum(int(n.get("graded_errors") or 0) for n in row.finished))
    warnings = dict.fromkeys(words for n in row.finished for words in n.get("warnings") or [])
    return [*found, *([errors] if errors else []), *warnings]


def _flat(row: Folded, *, is_best: bool) -> dict[str, Any]:
    n = row.first.numbers
    bounds = row.bounds or (None, None)
    return {
        "run": row.source,
        **{f"varies.{k}": v for k, v in row.first.point.items()},
        "eval": row.first.called,
        "dataset": dataset(n or row.first.spec),
        "split": n.get("split"),
        "runs": len(row.finished),
        "runs_asked": len(row.many),
        "unfinished": row.lacking or None,
        "debug": any(one.debug for one in row.many),
        "accuracy": row.accuracy,
        "accuracy_low": bounds[0],
        "accuracy_high": bounds[1],
        "pass_at_k": {k: row.mean(partial(_pass_at, k=k)) for k in n.get("pass_at_k") or {}} or None,
        "maj_at_k": row.mean(lambda m: m.get("maj_at_k")),
        "best": is_best,
        "n": n.get("n"),
        "k": n.get("k"),
        "tokens_mean": row.mean(tokens),
        "latents_mean": row.mean(latents),
        "disturbed": row.disturbed,
        "positions_mean": row.mean(steps),
        "seconds_per_problem": row.mean(seconds_per_problem),
        "truncated": row.mean(lambda m: m.get("truncated")),
        "graded_errors": row.mean(lambda m: m.get("graded_errors")),
        "grader": n.get("grader"),
        "data_hash": n.get("data_hash"),
        "prompt_hash": n.get("prompt_hash"),
    }


def _pass_at(numbers: Mapping[str, Any], k: str) -> float | None:
    return (numbers.get("pass_at_k") or {}).get(k)


def flat(rows: Sequence[Folded]) -> list[dict[str, Any]]:
    """Every row in full precision, for CSV and JSON; None is what is not known."""
    top = best(rows)
    return [_flat(row, is_best=i in top) for i, row in enumerate(rows)]


def csv(rows: Sequence[Folded]) -> str:
    """One line for each row; means over the seeds."""
    return export.csv_text(flat(rows))


def markdown(rows: Sequence[Folded]) -> str:
    """A pipe table, the highest accuracy of each dataset in bold, and what a reader must know below."""
    head, body, texts = _cells(rows)
    top = best(rows)
    for i in top:
        body[i][texts] = f"**{body[i][texts]}**"
    notes = [f"- {note}" for note in _notes(rows)]
    return "\n".join([export.markdown(head, body, texts=texts), *(["", *notes] if notes else [])])


def latex(rows: Sequence[Folded]) -> str:
    """A `tabular` with booktabs' rules, the highest accuracy of each dataset in bold, and comments below."""
    head, body, texts = _cells(rows)
    for cells in body:
        cells[texts + 1] = re.sub(r"(?<=\d)-(?=\d)", "–", cells[texts + 1])
    notes = [f"% {note}" for note in _notes(rows)]
    return "\n".join([export.latex(head, body, texts=texts, bold=best(rows)), *notes])


def _cells(rows: Sequence[Folded]) -> tuple[list[str], list[list[str]], int]:
    """Titles, cells and how many columns are text: run or sweep (where there are several), each varied key,
    and the evaluation with its numbers."""
    wide = len({row.source for row in rows}) > 1
    keys = leaves(dict.fromkeys(k for row in rows for k in row.first.point))
    evals = len({row.first.called for row in rows}) > 1 or not (wide or keys)
    texts = wide + len(keys) + evals + 1
    head = [*(["run"] if wide else []), *keys.values(), *(["evaluation"] if evals else []), "dataset"]
    noisy = any(row.disturbed is not None for row in rows)
    head += ["accuracy (%)", "95 % CI", "runs", "tokens", "latent steps"]
    head += [*(["noised (%)"] if noisy else []), "s/problem"]
    body = [
        [
            *([row.source] if wide else []),
            *(value_text(row.first.point[k]) if k in row.first.point else "-" for k in keys),
            *([row.first.called] if evals else []),
            data_text(row.first),
            percent(row.accuracy),
            interval(row.bounds),
            row.runs,
            short(row.mean(tokens)),
            short(row.mean(latents)),
            *([percent(row.disturbed)] if noisy else []),
            small(row.mean(seconds_per_problem)),
        ]
        for row in rows
    ]
    return head, body, texts


def _notes(rows: Sequence[Folded]) -> list[str]:
    names = labels([(row.source, point_text(row.first.point), row.first.called) for row in rows])
    pairs = [(name, "; ".join(caveats(row))) for name, row in zip(names, rows, strict=True)]
    return [f"{name}: {notes}" for name, notes in pairs if notes]
