"""What is done about failures on a cluster: how often a job is tried again, and rules of its own."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from latentctl.faults.load import shipped, wrong_pattern
from latentctl.faults.rules import Action
from latentctl.spec.base import Duration, Spec


class FaultRuleSpec(Spec):
    """A kind of failure that the shipped rules do not know, or see otherwise; tried before them."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    kind: str = Field(alias="class", pattern=r"^[a-z][a-z0-9_]{0,39}$")
    """`node`, `disk`, `nccl`, `data`, `out_of_memory`, `user_error`, `code`, or a word of your own."""
    patterns: list[str] = Field(min_length=1)
    """Regular expressions, searched in each line of what a failed process wrote last."""
    action: Action = "stop"
    """`stop`, `requeue`, `requeue_elsewhere` (the node is left out), `smaller_micro_batch` (half of it, at
    the same global batch)."""
    wait: Duration | None = None
    """Before the first retry; each further one waits twice as long, half an hour at most."""
    primary: bool = True
    """False: the consequence of another rank's failure."""
    hint: str | None = None
    """What a person can do."""

    @field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: list[str]) -> list[str]:
        for text in patterns:
            if why := wrong_pattern(text):
                raise ValueError(f"{text!r} is no regular expression: {why}")
        return patterns

    @model_validator(mode="after")
    def _user_errors_stop(self) -> FaultRuleSpec:
        if self.kind == "user_error" and self.action != "stop":
            raise ValueError("what only a person can mend is never tried again: action: stop")
        return self


class FaultsSpec(Spec):
    """Failures of jobs: which are tried again, how often, and where not."""

    retries: int = Field(default=3, ge=0, le=100)
    """So many attempts of a job after failures whose rule says requeue; requeues after a checkpoint count
    apart (`max_requeues`). 0: none."""
    exclude_for: Duration = 43200
    """For so long a node whose hardware failed is left out."""
    actions: dict[str, Action] = Field(default_factory=dict)
    """Other actions for rules, by their name or class: `{host_oom: requeue}`; `latentctl classify` names
    them."""
    rules: list[FaultRuleSpec] = Field(default_factory=list)
    """Tried before the shipped ones."""

    @model_validator(mode="after")
    def _known(self) -> FaultsSpec:
        rules = {r.name: r.kind for r in self.rules} | {r.name: r.kind for r in shipped()}
        known = {*rules, *rules.values()}
        for name, action in self.actions.items():
            if name not in known:
                raise ValueError(
                    f"actions: there is no rule and no class {name!r}: {', '.join(sorted(known))}"
                )
            if action != "stop" and "user_error" in (name, rules.get(name)):
                raise ValueError(f"actions: {name}: what only a person can mend is never tried again")
        return self
