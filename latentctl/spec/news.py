"""Who is told when a run ends, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from latentctl.spec.base import Spec

Event = Literal["failed", "finished", "retried"]


class NotifySpec(Spec):
    """Word of what happened to a run, by mail or to a webhook."""

    mail: str | None = Field(default=None, pattern=r"^[^@\s]+@[^@\s]+$|^[A-Za-z0-9._-]+$")
    """Slurm writes to this address, one mail for each job."""
    webhook: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable that holds the address (Slack, Mattermost, Discord, or anything that takes
    JSON): addresses are secrets, and are never written to disk. Jobs speak to it from their node."""
    on: list[Event] = Field(default=["failed", "finished"], min_length=1)
    """`failed`: a job, for good; `finished`: the last job of the run; `retried`: a job, and it starts
    again."""

    @model_validator(mode="after")
    def _somebody(self) -> NotifySpec:
        if self.mail is None and self.webhook is None:
            raise ValueError("say whom: mail: ADDRESS, or webhook: NAME_OF_A_VARIABLE")
        return self
