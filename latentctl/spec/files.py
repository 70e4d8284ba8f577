"""A file's bytes and its tree, or one clear error."""

from __future__ import annotations

import codecs
from pathlib import Path

from latentctl.errors import Exit, UserError
from latentctl.spec.findings import user_error
from latentctl.spec.yaml_marks import MAX_BYTES, Mark, Node, YamlProblems, parse

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_bytes(path: Path, what: str) -> bytes:
    """The whole file, at most `MAX_BYTES`. Raises UserError; `what` is "recipe" or "cluster profile"."""
    where = str(path)
    try:
        if path.is_dir():
            inside = sorted(p.name for p in path.glob("*.y*ml"))[:5]
            hint = f"{what}s in it: {', '.join(inside)}" if inside else None
            raise UserError(f"this is a directory, not a {what}", where=where, hint=hint)
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise missing(path, what) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=where) from None
    if len(data) > MAX_BYTES:
        raise UserError(f"larger than {MAX_BYTES // 1024} KiB, which is the limit of a {what}", where=where)
    return data


def missing(path: Path, what: str) -> UserError:
    """The error for a file that is not there, with the nearest one that is."""
    from latentctl.spec import catalog

    folder = path.parent if path.parent.is_dir() else Path()
    near = catalog.nearest(path.name, [p.name for p in folder.glob("*.y*ml")], 0.7)
    hint = f"did you mean {folder / near}?" if near else None
    if what == "recipe" and not near:
        hint = "shipped recipes: latentctl recipes list"
    return UserError("no such file", where=str(path), hint=hint, code=Exit.NOT_FOUND, kind="not_found")


def decode(data: bytes, source: str) -> str:
    """The text of UTF-8 bytes, without a byte-order mark. Raises UserError with line and byte offset."""
    if data.startswith(_UTF16):
        raise UserError("the file is UTF-16", where=f"{source}:1:1", hint="save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        message = f"the byte 0x{data[error.start]:02X} (offset {error.start}) is not UTF-8"
        raise UserError(message, where=f"{source}:{line}:{column}", hint="save the file as UTF-8") from None


def tree(data: bytes, source: str, what: str) -> Node:
    """The tree of a file that holds one map. Raises UserError with every problem."""
    text = decode(data, source)
    try:
        root = parse(text, source)
    except YamlProblems as error:
        raise user_error(error.problems) from None
    if root is None or root.value is None:
        raise UserError("the file is empty", where=source, hint=f"a {what} is a map: see `latentctl schema`")
    if not root.is_map:
        kind = "a list" if isinstance(root.value, list) else "one value"
        mark: Mark = root.mark
        hint = "the first line may lack a colon" if not isinstance(root.value, list) else None
        raise UserError(
            f"a {what} is a map of keys and values; this file holds {kind}", where=str(mark), hint=hint
        )
    return root
