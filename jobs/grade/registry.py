"""The table of graders. Own ones come from a plugin file that calls `register`, or from an installed
package's entry point in the group `latentctl.graders`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import metadata

from jobs.grade.countdown import Countdown
from jobs.grade.mathematics import Math
from jobs.grade.protocol import Grader
from jobs.grade.simple import Choice, Exact, Numeric, Prosqa
from jobs.runtime.errors import JobUserError

_TABLE: dict[str, Grader] = {g.name: g for g in (Math(), Numeric(), Countdown(), Choice(), Exact(), Prosqa())}


def register(grader: Grader) -> Grader:
    """Make a grader known under its `name`. A plugin may not take the name of another."""
    other = _TABLE.get(grader.name)
    if other is not None and type(other) is not type(grader):
        raise JobUserError(f"there is already a grader {grader.name!r}", hint="give yours another name")
    _TABLE[grader.name] = grader
    return grader


def get(name: str, plugins: Iterable[str] = ()) -> Grader:
    """The grader of that name. Raises JobUserError with the names there are."""
    from jobs.data.plugins import load_plugins

    load_plugins(plugins)
    if name not in _TABLE:
        _load_entry_point(name)
    if name not in _TABLE:
        near = difflib.get_close_matches(name, _TABLE, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise JobUserError(f"no grader is called {name!r}", hint=f"{hint}there are {', '.join(_TABLE)}")
    return _TABLE[name]


def _load_entry_point(name: str) -> None:
    for point in metadata.entry_points(group="latentctl.graders", name=name):
        try:
            found = point.load()
        except Exception as error:
            raise JobUserError(f"the grader {name!r} of {point.value} does not load: {error}") from error
        register(found() if isinstance(found, type) else found)
