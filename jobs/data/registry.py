"""The one table of datasets: what each is called, which forms its rows take, how its answers are judged.

Three kinds: `Files` (rows in files or on the Hub), `Generator` (made on the spot) and `Own` (a function of a
plugin). Own datasets come in through `register`, from a Python file that a recipe names under `plugins:` or
from an installed package's entry point in the group `latentctl.datasets`.
"""

from __future__ import annotations

import difflib
import importlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from pydantic import ValidationError

from jobs.data.example import Example
from jobs.runtime.errors import JobUserError
from latentctl.spec.base import Spec


class NoOptions(Spec):
    """A dataset without options."""


class NothingFits(Exception):
    """Raised by a generator's `draw` whose many tries gave no problem that fits the options."""


@dataclass(frozen=True)
class Form:
    """One way in which a row may look: a row is of the first form whose `fields` it has all.

    `parse(row, options)` gives the example (or several) of a row with `id=""` where the row names none, and
    raises `jobs.data.fields.RowError`. A form without fields takes lines of text.
    """

    fields: tuple[str, ...]
    parse: Callable[[Any, Any], Example | list[Example]]
    about: str = ""


@dataclass(frozen=True)
class Entry:
    """What every kind of dataset says of itself."""

    name: str
    about: str
    grader: str
    instruction: str = ""
    """What an answer looks like, for the prompt: "The answer is a whole number." """
    options: type[Spec] = NoOptions
    """Model of `dataset.options`."""


@dataclass(frozen=True)
class Files(Entry):
    """A dataset in files. `files`: per split the stems looked for, in order; each may be a tuple of stems
    that together are the split. `folders`: names of its folder besides its own. `hub`: per split (id, config,
    split)."""

    forms: tuple[Form, ...] = ()
    files: Mapping[str, tuple[str | tuple[str, ...], ...]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    hub: Mapping[str, tuple[str, str | None, str]] = field(default_factory=dict)
    complete: Callable[[Example, Any], Example] | None = None
    """Costly work on an example that was chosen (after slicing); raises RowError."""


@dataclass(frozen=True)
class Generator(Entry):
    """Problems made on the spot: solvable by construction, the same for the same seed on every machine.

    `draw(rng, options)` makes one problem and its canonical key. The key's hash decides the split, so that
    train, valid and test share no problem, whatever their seeds. It raises NothingFits after many vain tries.
    """

    draw: Callable[[random.Random, Any], tuple[str, Example]] = lambda rng, options: ("", Example("", "", ""))
    sizes: Mapping[str, int] = field(default_factory=lambda: {"train": 20000, "valid": 500, "test": 500})
    """Rows per split where `limit` is unsaid."""


@dataclass(frozen=True)
class Own(Entry):
    """A function of a plugin: `make(split, options)` gives examples with unique ids."""

    make: Callable[[str, Any], Iterable[Example]] = lambda split, options: ()


_BUILTIN = (
    "jobs.data.sets.gsm8k",
    "jobs.data.sets.words",
    "jobs.data.sets.competition",
    "jobs.data.sets.choice",
    "jobs.data.sets.countdown",
    "jobs.data.sets.graphs",
    "jobs.data.generators.shell_game",
    "jobs.data.generators.countdown",
    "jobs.data.generators.prosqa",
)
_TABLE: dict[str, Entry] = {}
_loaded = False


def register(entry: Entry) -> Entry:
    """Make a dataset known. A plugin may not take a name that another dataset has."""
    other = _TABLE.get(entry.name)
    if other is not None and _home(other) != _home(entry):
        raise JobUserError(f"there is already a dataset {entry.name!r}", hint="give yours another name")
    _TABLE[entry.name] = entry
    return entry


def _home(entry: Entry) -> Any:
    """Where an entry was written: a plugin that is imported twice may register its own again."""
    return entry.make.__code__.co_filename if isinstance(entry, Own) else entry


def dataset(
    name: str,
    *,
    grader: str = "exact",
    about: str = "",
    instruction: str = "",
    options: type[Spec] = NoOptions,
) -> Callable[[Callable[..., Iterable[Example]]], Callable[..., Iterable[Example]]]:
    """Decorator of a plugin's function `make(split, options) -> examples`."""

    def wrap(make: Callable[..., Iterable[Example]]) -> Callable[..., Iterable[Example]]:
        register(Own(name, about or (make.__doc__ or "").strip(), grader, instruction, options, make=make))
        return make

    return wrap


def table() -> dict[str, Entry]:
    """Every known dataset by name: ours, then those of installed packages, then those of loaded plugins."""
    global _loaded
    if not _loaded:
        _loaded = True
        for module in _BUILTIN:
            importlib.import_module(module)
        for point in metadata.entry_points(group="latentctl.datasets"):
            try:
                found = point.load()
            except Exception as error:
                raise JobUserError(
                    f"the dataset {point.name!r} of {point.value} does not load: {error}"
                ) from error
            if isinstance(found, Entry):
                register(found)
    return _TABLE


def find(name: str) -> Entry:
    """The dataset of that name. Raises JobUserError with the nearest name."""
    known = table()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise JobUserError(f"no dataset is called {name!r}", hint=f"{hint}`latentctl data --list` shows all")


def parse_options(entry: Entry, given: Mapping[str, Any]) -> Any:
    """`dataset.options` as the entry's model. Raises JobUserError naming every wrong key, with the nearest
    one.
    """
    try:
        return entry.options.model_validate(dict(given))
    except ValidationError as error:
        lines, hints = [], []
        for item in error.errors():
            key = ".".join(map(str, item["loc"]))
            if item["type"] == "extra_forbidden":
                lines.append(f"{entry.name} has no option {key!r}")
                near = difflib.get_close_matches(key, entry.options.model_fields, n=1)
                hints += [f"did you mean {near[0]!r}?"] if near else []
            else:
                message = item["msg"].removeprefix("Value error, ")
                lines.append(f"options.{key}: {message} (it is {item['input']!r})" if key else message)
        known = ", ".join(entry.options.model_fields) or "none"
        hint = " ".join([*hints, f"options of {entry.name}: {known}"])
        raise JobUserError("; ".join(lines), hint=hint, where="dataset.options") from error
