"""The errors that a person may see, and the exit codes of the CLI."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, the same for every command."""

    OK = 0
    NEGATIVE = 1
    """The command ran, and the answer is no: a run failed, a check has findings."""
    USAGE = 2
    """Wrong usage, an invalid recipe, or our own refusal before anything was created."""
    NOT_FOUND = 3
    """No such run, recipe, cluster; or the name is ambiguous."""
    CLUSTER = 4
    """Slurm cannot be reached, or refused."""
    INTERRUPTED = 5
    """Waiting was interrupted; the job goes on."""
    PENDING = 8
    """Still pending or running (`status --exit-code`)."""
    BUG = 70
    CTRL_C = 130


@dataclass(frozen=True)
class Problem:
    """One finding about something that a person wrote.

    `where` is "file:line:col", "--set a.b" or a path; `key` the dotted path inside the recipe.
    """

    message: str
    where: str | None = None
    key: str | None = None
    hint: str | None = None

    def text(self) -> str:
        """One line, with an optional second line that starts with `hint:`."""
        parts = [p for p in (self.where, self.key) if p]
        line = ": ".join([*parts, self.message])
        return f"{line}\nhint: {self.hint}" if self.hint else line


class UserError(Exception):
    """The only exception that is shown without a traceback.

    Carries one or many `Problem`s and the exit code. Raise it for whatever a person can mend.
    """

    def __init__(
        self,
        message: str = "",
        *,
        where: str | None = None,
        key: str | None = None,
        hint: str | None = None,
        code: Exit = Exit.USAGE,
        kind: str = "user_error",
        problems: list[Problem] | None = None,
    ) -> None:
        self.problems = problems or [Problem(message, where, key, hint)]
        self.code = code
        self.kind = kind
        """A closed vocabulary for `--json`: user_error, invalid_recipe, not_found, ambiguous, cluster,
        exists."""
        super().__init__("\n".join(p.text() for p in self.problems))
