"""Command parameters that need no conversion skip Typer's: it loads all of pydantic for a plain text.

Typer converts every parameter that is no flag through a pydantic TypeAdapter, which costs half of what
`status` may take. A value that is right as it is goes through here; any other takes Typer's own way, errors
included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin

_MISSING = object()


def quicken(command: Any) -> None:
    """Let the parameters of a command, `--help` among them, take the short way. Does nothing where Typer is
    built otherwise."""
    everything = command.get_params

    def get_params(ctx: Any) -> list[Any]:
        params = everything(ctx)
        for param in params:
            if getattr(param, "_runtime_param", _MISSING) is None and hasattr(param, "type_descriptor"):
                param._runtime_param = _Quick()
        return params

    command.get_params = get_params


class _Quick:
    """Has the one method that Typer calls of a `RuntimeParam`."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        many = param.multiple or param.nargs == -1
        if value is None:
            return () if many else None
        info = param.type_descriptor.parameter_info
        plain = _plain(value, _bare(param.type_descriptor.annotation), many=many)
        special = (info.parser, info.exists, info.resolve_path, info.min, info.max)
        if plain is not _MISSING and not any(s not in (None, False) for s in special):
            return plain
        param._runtime_param = None
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _bare(annotation: Any) -> Any:
    """`T` of `T | None`."""
    args = [a for a in get_args(annotation) if a is not type(None)]
    return args[0] if len(args) == 1 and get_origin(annotation) is not list else annotation


def _plain(value: Any, annotation: Any, *, many: bool) -> Any:
    """The converted value, _MISSING where there is something to convert or to refuse."""
    if annotation is str and isinstance(value, str) and not many:
        return value
    if annotation is Path and isinstance(value, str | Path) and not many:
        return Path(value)
    if get_origin(annotation) is list and get_args(annotation) == (str,) and isinstance(value, list | tuple):
        return list(value)
    if annotation in (int, float) and type(value) is annotation:  # a default
        return value
    return _MISSING
