"""From a `DatasetSpec` to examples: find, read, check, shuffle, slice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from jobs.data.example import BadRow, Example
from jobs.data.fields import RowError, scalar, text, texts
from jobs.data.generate import stream
from jobs.data.hub import hub_rows
from jobs.data.locate import Place, locate
from jobs.data.plugins import load_plugins
from jobs.data.registry import Entry, Files, Form, Generator, Own, find, parse_options
from jobs.data.rows import Row, read_rows
from jobs.runtime.errors import JobUserError
from latentctl.spec.dataset import DatasetSpec, FieldMap


@dataclass(frozen=True)
class Loaded:
    """The examples of one dataset, ready to render."""

    name: str
    split: str
    source: str
    """The files, the Hub id or the generator."""
    examples: list[Example]
    total: int | None
    """Good rows before slicing; None for a generator."""
    grader: str
    """Name of the grader that this dataset takes where the recipe says `auto`."""
    instruction: str = ""
    """What an answer looks like, for `Renderer`."""
    bad_rows: list[BadRow] = field(default_factory=list)


def load(
    spec: DatasetSpec, *, data_dir: str | None = None, split: str | None = None, plugins: Sequence[str] = ()
) -> Loaded:
    """Read a dataset. `split` overrides the spec's.

    Raises JobUserError: not found, wrong options, no rows, a slice beyond the end, and (unless `on_bad_row:
    skip`) the first bad row with its file and line. The whole file is checked, whatever the slice.
    """
    load_plugins(plugins)
    split = split or spec.split
    entry = find(spec.name) if spec.name else _mapped(spec.fields or FieldMap())
    options = parse_options(entry, spec.options)
    if isinstance(entry, Generator):
        return _generated(entry, spec, split, options)
    if isinstance(entry, Own):
        examples, bad, source = _own(entry, split, options), [], f"plugin {entry.name}"
    else:
        assert isinstance(entry, Files)
        place = locate(entry, spec.path, split, data_dir)
        source = str(place)
        name = entry.name or place.name
        examples, bad = _collect(entry, place, f"{name}-{split}", options, skip=spec.on_bad_row == "skip")
        entry = replace(entry, name=name)
    chosen = _slice(spec, examples)
    if isinstance(entry, Files) and entry.complete is not None:
        chosen = _completed(chosen, entry.complete, options, bad, source, skip=spec.on_bad_row == "skip")
    return Loaded(entry.name, split, source, chosen, len(examples), entry.grader, entry.instruction, bad)


def _completed(
    examples: list[Example],
    complete: Callable[[Example, Any], Example],
    options: Any,
    bad: list[BadRow],
    source: str,
    *,
    skip: bool,
) -> list[Example]:
    out: list[Example] = []
    for example in examples:
        try:
            out.append(complete(example, options))
        except RowError as error:
            found = BadRow(source, None, f"row {example.id}: {error}")
            if not skip:
                raise _refused(found) from error
            bad.append(found)
    if not out:
        raise JobUserError(f"no row could be used; the first: {bad[0].reason}", where=source)
    return out


def _refused(bad: BadRow) -> JobUserError:
    where = bad.file if bad.line is None else f"{bad.file}:{bad.line}"
    return JobUserError(
        bad.reason, hint="`on_bad_row: skip` leaves bad rows out and counts them", where=where
    )


def _generated(entry: Generator, spec: DatasetSpec, split: str, options: Any) -> Loaded:
    if spec.path is not None:
        raise JobUserError(f"{entry.name} is a generator: it reads no file", hint="drop dataset.path")
    if split not in entry.sizes:
        raise JobUserError(f"{entry.name} has no split {split!r}", hint=f"splits: {', '.join(entry.sizes)}")
    rows = stream(entry, split, options, spec.seed or 0)
    size = spec.limit or entry.sizes[split]
    examples = list(islice(rows, spec.start, spec.start + size))
    return Loaded(entry.name, split, "generated", examples, None, entry.grader, entry.instruction)


def _own(entry: Own, split: str, options: Any) -> list[Example]:
    examples = list(entry.make(split, options))
    seen: set[str] = set()
    for number, example in enumerate(examples, 1):
        if not isinstance(example, Example):
            raise JobUserError(f"{entry.name} gave {type(example).__name__} as item {number}, not an Example")
        if not example.id or example.id in seen:
            raise JobUserError(f"{entry.name}: the id {example.id!r} of item {number} is empty or not unique")
        seen.add(example.id)
    if not examples:
        raise JobUserError(f"{entry.name} gave no examples for the split {split!r}")
    return examples


def _slice(spec: DatasetSpec, examples: list[Example]) -> list[Example]:
    """Shuffle with `random.Random(seed)` (the same on every machine), then `start` and `limit`."""
    order = list(examples)
    if spec.seed is not None:
        random.Random(spec.seed).shuffle(order)
    if spec.start >= len(order):
        raise JobUserError(
            f"start is {spec.start}, but there are only {len(order)} rows", where="dataset.start"
        )
    return order[spec.start : None if spec.limit is None else spec.start + spec.limit]


def _collect(
    entry: Files, place: Place, prefix: str, options: Any, *, skip: bool
) -> tuple[list[Example], list[BadRow]]:
    """Every good row as an example with an id; bad rows apart, or an error at the first."""
    examples: list[Example] = []
    bad: list[BadRow] = []
    lines: dict[str, str] = {}
    for number, row in enumerate(_rows(place)):
        found = row if isinstance(row, BadRow) else _parse(entry, row, options)
        if isinstance(found, list):
            found = _identify(found, row, f"{prefix}-{number}", lines)
        if isinstance(found, list):
            examples += found
        elif skip:
            bad.append(found)
        else:
            raise _refused(found)
    if not examples:
        first = f"; the first: line {bad[0].line}: {bad[0].reason}" if bad else ""
        raise JobUserError(f"no row could be used ({len(bad)} bad rows{first})", where=str(place))
    return examples, bad


def _rows(place: Place) -> Iterator[Row | BadRow]:
    if place.hub:
        yield from hub_rows(*place.hub, looked=place.looked)
    for file in place.files:
        yield from read_rows(file)


def _parse(entry: Files, row: Row, options: Any) -> list[Example] | BadRow:
    form = _form(entry.forms, row.value)
    try:
        if form is None:
            raise RowError(_no_form(entry, row.value))
        value = {**row.value, "__key__": row.key} if row.key else row.value
        found = form.parse(value, options)
    except RowError as error:
        return BadRow(row.file, row.line, str(error))
    return [found] if isinstance(found, Example) else found


def _form(forms: Iterable[Form], value: Any) -> Form | None:
    if isinstance(value, str):
        return next((f for f in forms if not f.fields), None)
    return next((f for f in forms if f.fields and all(k in value for k in f.fields)), None)


def _no_form(entry: Files, value: Any) -> str:
    expected = " | ".join(", ".join(f.fields) or "lines of text" for f in entry.forms)
    if isinstance(value, str):
        return f"a line of text, but {entry.name or 'this dataset'} has rows with fields: {expected}"
    missing = [[k for k in f.fields if k not in value] for f in entry.forms if f.fields]
    there = ", ".join(map(str, value)) or "none"
    nearest = min(missing, key=len, default=[])
    named = f"the field {nearest[0]!r} is missing" if len(nearest) == 1 else "the row has no known form"
    return f"{named} (fields there: {there}; expected: {expected})"


def _identify(
    found: list[Example], row: Row | BadRow, fallback: str, lines: dict[str, str]
) -> list[Example] | BadRow:
    """Give ids to rows that have none; refuse an id that an earlier row has."""
    assert isinstance(row, Row)
    out: list[Example] = []
    for index, example in enumerate(found):
        id = example.id or (fallback if len(found) == 1 else f"{fallback}.{index}")
        if id in lines:
            return BadRow(row.file, row.line, f"duplicate id {id!r}: {lines[id]} has it too")
        out.append(example if example.id else replace(example, id=id))
    lines.update((e.id, f"line {row.line}") for e in out)
    return out


def _mapped(fields: FieldMap) -> Entry:
    """The dataset of a file or Hub id without a name: one form, by the recipe's field mapping."""
    needed = tuple(f for f in (fields.question, fields.answer, fields.steps, fields.id) if f)

    def parse(row: Any, options: Any) -> Example:
        steps: tuple[str, ...] = ()
        if fields.steps:
            value = row[fields.steps]
            steps = texts(row, fields.steps) if isinstance(value, list) else _lines(text(row, fields.steps))
        id = scalar(row, fields.id) if fields.id else ""
        return Example(id, text(row, fields.question), scalar(row, fields.answer), steps)

    return Files("", "a file with a field mapping", "exact", forms=(Form(needed, parse),))


def _lines(value: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in value.split("\n") if line.strip())
