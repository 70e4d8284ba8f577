"""Rows of a local file, each with its line, so that a broken row can be named.

JSON lines, JSON lists, JSON objects of objects, CSV/TSV and text are scanned here: the `datasets` readers
name no line, guess types (an AIME gold "025" in a CSV becomes 25) and their text reader splits rows on
U+2028. Parquet, Arrow folders and the Hub go through `datasets`.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from jobs.data.example import BadRow
from jobs.runtime.errors import JobUserError

SUFFIXES = (".jsonl", ".json", ".ndjson", ".txt", ".csv", ".tsv", ".parquet")
"""What a data file may end with; all but parquet may end with .gz besides."""

_BOM = b"\xef\xbb\xbf"
_WHITE = " \t\r\n"


class Row(NamedTuple):
    """One row. `value` is a mapping, or the text of a line; `key` is its key where the file is an object of
    rows.
    """

    value: Any
    file: str
    line: int | None
    key: str | None = None


def suffix(path: Path) -> str:
    """`.jsonl` of both `a.jsonl` and `a.jsonl.gz`; empty for what is no data file."""
    name = path.name.lower().removesuffix(".gz")
    return next((s for s in SUFFIXES if name.endswith(s)), "")


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """Every row of a file in order, broken ones as `BadRow`.

    UTF-8 with or without a byte order mark, LF or CRLF, gzipped or not (by its first bytes). Raises
    JobUserError for a file that holds no rows at all: empty, not there, another kind.
    """
    kind = suffix(path)
    if not kind:
        raise JobUserError(
            f"not a data file: {path}", hint=f"known endings: {', '.join(SUFFIXES)}; or .gz of them"
        )
    _readable(path)
    if kind == ".parquet":
        yield from parquet_rows([path])
    elif kind in (".csv", ".tsv"):
        yield from _csv_rows(path, "\t" if kind == ".tsv" else ",")
    elif kind == ".txt":
        yield from _text_rows(path)
    elif _one_document(path, kind):
        yield from _document_rows(path)
    else:
        yield from _json_lines(path)


def parquet_rows(files: list[Path]) -> Iterator[Row | BadRow]:
    """Rows of parquet files; `line` is the row number, from 1, within its file."""
    import datasets

    for file in files:
        try:
            table = datasets.Dataset.from_parquet(str(file), keep_in_memory=True)
        except Exception as error:
            raise JobUserError(
                f"cannot read this parquet file: {_first_line(error)}", where=str(file)
            ) from error
        assert isinstance(table, datasets.Dataset)
        for number, value in enumerate(table, 1):
            yield Row(value, str(file), number)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise JobUserError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise JobUserError("the file is empty", where=str(path))
    if head.startswith(b"version https://git-lfs"):
        raise JobUserError(
            "this is a Git LFS pointer, not the data", where=f"{path}:1", hint="fetch it with `git lfs pull`"
        )
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise JobUserError(
            "the file is UTF-16", where=f"{path}:1", hint=f"convert it: iconv -f UTF-16 -t UTF-8 {path.name}"
        )


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if gzipped else path.open("rb")  # type: ignore[return-value]


def _lines(path: Path) -> Iterator[tuple[int, str] | BadRow]:
    """Numbered lines without their ends; split on LF alone, so that U+2028 and its like stay inside."""
    number = 0
    with _open(path) as file:
        while True:
            try:
                raw = file.readline()
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                yield BadRow(str(path), number + 1, _gzip_reason(error))
                return
            if not raw:
                return
            number += 1
            raw = raw.removeprefix(_BOM) if number == 1 else raw
            try:
                yield number, raw.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                yield BadRow(str(path), number, _encoding_reason(error))


def _gzip_reason(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the gzip file is cut short here; nothing after it can be read"
    return f"the gzip file is broken here ({error}); nothing after it can be read"


def _encoding_reason(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"not UTF-8: byte 0x{byte:02x} at position {error.start + 1} of the line"


def _text_rows(path: Path) -> Iterator[Row | BadRow]:
    for item in _lines(path):
        if isinstance(item, BadRow):
            yield item
        elif item[1].strip():
            yield Row(item[1], str(path), item[0])


def _json_lines(path: Path) -> Iterator[Row | BadRow]:
    for item in _lines(path):
        if isinstance(item, BadRow):
            yield item
            continue
        number, text = item
        if not text.strip():
            continue
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            yield BadRow(str(path), number, _json_reason(error, len(text)))
            continue
        yield _mapping(value, path, number)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _mapping(value: Any, path: Path, line: int, key: str | None = None) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(value, str(path), line, key)
    return BadRow(str(path), line, f"a row must be a JSON object, this is {_kind(value)}")


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _json_reason(error: Exception, length: int) -> str:
    if isinstance(error, RecursionError):
        return "not JSON: nested too deep"
    if not isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    if error.msg.startswith("Unterminated string") or error.pos >= length:
        return "the JSON is cut short"
    return f"not JSON: {error.msg} at column {error.colno}"


def _one_document(path: Path, kind: str) -> bool:
    """Whether the file is one JSON value rather than a row a line; endings lie both ways, so look inside."""
    first = second = ""
    for item in _lines(path):
        if isinstance(item, BadRow):
            return False
        if not item[1].strip():
            continue
        if not first:
            first = item[1].strip()
            if first[0] != "{":
                return first[0] == "["
        else:
            second = item[1].strip()
            break
    if not first:
        raise JobUserError("the file has no rows, only blank lines", where=str(path))
    if not second:
        return kind == ".json" and not _is_row(first)
    return not (_parses(first) or (kind != ".json") or (len(first) > 1 and second.startswith("{")))


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_row(text: str) -> bool:
    """Whether a one-line object is one row; an object whose values are all objects is a table of rows."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return not all(isinstance(v, dict) for v in value.values())


def _document_rows(path: Path) -> Iterator[Row | BadRow]:
    """Elements of a JSON list, or values of a JSON object, each with the line where it starts."""
    try:
        with _open(path) as file:
            raw = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield BadRow(str(path), None, _gzip_reason(error))
        return
    try:
        text = raw.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        start = raw.rfind(b"\n", 0, error.start) + 1
        reason = f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start - start + 1} of the line"
        yield BadRow(str(path), line, f"{reason}; a JSON list in another encoding cannot be read in part")
        return
    yield from _Elements(text, path).rows()


class _Elements:
    """Walks the elements of one JSON document, keeping count of lines."""

    def __init__(self, text: str, path: Path) -> None:
        self.text, self.path = text, path
        self.decoder = json.JSONDecoder(parse_constant=_no_constant)
        self.counted = 0
        self.line = 1

    def line_at(self, position: int) -> int:
        self.line += self.text.count("\n", self.counted, position)
        self.counted = position
        return self.line

    def skip(self, position: int) -> int:
        while position < len(self.text) and self.text[position] in _WHITE:
            position += 1
        return position

    def rows(self) -> Iterator[Row | BadRow]:
        position = self.skip(0)
        is_object = self.text[position] == "{"
        close = "}" if is_object else "]"
        position = self.skip(position + 1)
        if self.text[position : position + 1] == close:
            raise JobUserError("the file has no rows, only an empty list", where=str(self.path))
        while True:
            start, key = position, None
            try:
                if is_object:
                    key, position = self.key(position)
                value, position = self.decoder.raw_decode(self.text, position)
            except (ValueError, RecursionError) as error:
                yield self.broken(start, error)
                return
            yield _mapping(value, self.path, self.line_at(start), key)
            position = self.skip(position)
            sign = self.text[position : position + 1]
            if sign == close:
                if rest := self.text[position + 1 :].strip():
                    yield self.stray(self.skip(position + 1), rest)
                return
            if sign != ",":
                reason = "the list is cut short" if not sign else f"expected , or {close}, found {sign!r}"
                yield BadRow(
                    str(self.path), self.line_at(position), f"{reason}; nothing after it can be read"
                )
                return
            position = self.skip(position + 1)

    def key(self, position: int) -> tuple[str, int]:
        key, position = self.decoder.raw_decode(self.text, position)
        position = self.skip(position)
        if not isinstance(key, str) or self.text[position : position + 1] != ":":
            raise json.JSONDecodeError("Expecting a key and ':'", self.text, position)
        return key, self.skip(position + 1)

    def broken(self, start: int, error: Exception) -> BadRow:
        position = error.pos if isinstance(error, json.JSONDecodeError) else start
        begins = self.line_at(start)
        reason = _json_reason(error, len(self.text.rstrip()))
        if (at := self.line_at(max(position, start))) != begins:
            reason += f" (line {at})"
        return BadRow(str(self.path), begins, f"{reason}; nothing after it can be read")

    def stray(self, position: int, rest: str) -> BadRow:
        return BadRow(
            str(self.path), self.line_at(position), f"text after the end of the list: {rest[:20]!r}"
        )


def _csv_rows(path: Path, delimiter: str) -> Iterator[Row | BadRow]:
    """Rows of a CSV with a header line, every value as text; a quoted value may span lines."""
    problems: list[BadRow] = []

    def lines() -> Iterator[str]:
        for item in _lines(path):
            if isinstance(item, BadRow):
                problems.append(item)
                return
            yield item[1] + "\n"

    csv.field_size_limit(1 << 30)
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        begins = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield BadRow(str(path), begins, f"broken CSV: {error}; nothing after it can be read")
            return
        if not values:
            continue
        if header is None:
            header = values
            if repeated := sorted({c for c in header if header.count(c) > 1}):
                raise JobUserError(
                    f"the column {repeated[0]!r} stands twice in the header", where=f"{path}:1"
                )
        elif len(values) != len(header):
            reason = f"{len(values)} values, but the header has {len(header)} columns"
            yield BadRow(str(path), begins, reason)
        else:
            yield Row(dict(zip(header, values, strict=True)), str(path), begins)
    yield from problems
