"""Anybody's outputs: rows of a JSONL file, of which one field is the gold and one what a model wrote."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.grade.protocol import Answered
from jobs.runtime.errors import JobUserError


@dataclass(frozen=True)
class Output:
    """One prediction of one line. A line may hold a list of predictions: samples of one problem."""

    line: int
    id: str | None
    index: int
    item: Answered


@dataclass(frozen=True)
class Malformed:
    line: int
    reason: str


def read(path: Path, *, gold: str, prediction: str) -> Iterator[Output | Malformed]:
    """Every line in order. Lines end at \\n alone; a byte-order mark and \\r are let through; `.gz` is
    unpacked.

    Raises JobUserError where the file cannot be read at all, is cut short inside its compression, or is
    empty.
    """
    number = 0
    for number, line in _lines(path):
        yield from _parse(number, line, gold, prediction)
    if number == 0:
        raise JobUserError("the file is empty", where=str(path))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise JobUserError(f"the file cannot be read: {reason}", where=str(path)) from error


def _parse(number: int, line: bytes, gold: str, prediction: str) -> Iterator[Output | Malformed]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        yield Malformed(number, f"not UTF-8 (byte {error.start + 1})")
        return
    except (ValueError, RecursionError) as error:
        yield Malformed(number, f"not JSON: {str(error)[:100]}")
        return
    if not isinstance(row, dict):
        yield Malformed(number, f"not an object but {type(row).__name__}")
        return
    missing = [name for name in (gold, prediction) if row.get(name) is None]
    if missing:
        there = ", ".join(list(row)[:20]) or "none"
        yield Malformed(number, f"no field {missing[0]!r} (fields there: {there})")
        return
    given = row[prediction]
    texts = given if isinstance(given, list) else [given]
    wrong = next((t for t in texts if not isinstance(t, str | int | float) or isinstance(t, bool)), None)
    if not texts or wrong is not None:
        what = "an empty list" if not texts else type(wrong).__name__
        yield Malformed(number, f"the field {prediction!r} holds {what}, not text")
        return
    meta = _meta(row, row[gold])
    id = None if row.get("id") is None else str(row["id"])
    for index, text in enumerate(texts):
        yield Output(number, id, index, Answered(str(text), _text(row[gold]), meta))


def _meta(row: dict[str, Any], gold: Any) -> dict[str, Any]:
    """What a grader may ask of the row besides: countdown's numbers and target, the options of a choice."""
    names = ("nums", "numbers", "target", "choices", "neg_target", "use_all")
    meta = {name: row[name] for name in names if name in row}
    if "numbers" in meta:
        meta.setdefault("nums", meta.pop("numbers"))
    if "nums" in meta:
        meta.setdefault("target", gold)
    return meta


def _text(gold: Any) -> str:
    return gold if isinstance(gold, str) else json.dumps(gold, ensure_ascii=False)
