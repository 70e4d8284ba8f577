"""Key-token tree search: generation that branches where a token decides (document 000; LATR,
arXiv 2510.24302)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from latentctl.spec.base import Spec


class TreeSpec(Spec):
    """How rows of one problem branch. At most so many rows as the problem has samples."""

    branches: int = Field(default=2, ge=2, le=16)
    """Candidates looked at for each token; the first always goes on with its own row."""
    min_prob: float = Field(default=0.25, ge=0, lt=1)
    """A candidate branches off only with at least this probability."""
    max_gap: float | None = Field(default=0.15, gt=0, le=1)
    """And if it lies at most so far below the first one's; null: no such rule."""
    stop_words: bool = False
    """Tokens that are punctuation, space or a common function word do not branch."""
    divergence: str | None = None
    """Checkpoint of a divergence model (a directory, `run:ID/STAGE`): a candidate branches off only if it
    says that the answers will differ."""
    divergence_threshold: float = Field(default=0.3, gt=0, lt=1)
    """Predicted to give another answer: a score (that of the same answer) below this."""
    look_ahead: list[int] = Field(default_factory=lambda: [20, 30, 50])
    """So many tokens after its birth a branch is compared with its parent; too similar ones are removed."""
    min_distance: float = Field(default=0.4, ge=0, le=1)
    """Edit distance over length below which a branch is too similar. 0: never removed."""
    adapt: bool = False
    """Move min_prob and max_gap by 0.01, at most ten times a problem: stricter where many candidates find no
    room, looser where room stays empty."""
    sample: Literal["none", "full", "always"] = "none"
    """Rows with one candidate: the most likely token (`none`), a drawn one once the problem has all its rows
    (`full`), or always a drawn one."""


Shares = dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0, le=1)]]


class TreeRollouts(TreeSpec):
    """Tree search as a source of rollouts for GRPO."""

    share: Shares = Field(
        default_factory=lambda: {0: 1.0, 10: 0.75, 20: 0.5, 80: 0.25, 200: 0.0}, min_length=1
    )
    """From this optimizer step on this share of the problems is searched; the rest is sampled."""
    max_len: int | None = Field(default=None, ge=1)
    """Branch within the first so many tokens; the rest of each row is sampled. Unsaid: everywhere."""

    def share_at(self, step: int) -> float:
        """Of the problems that are searched at an optimizer step."""
        return self.share[max((s for s in self.share if s <= step), default=min(self.share))]

    def searched(self, step: int, group: int) -> bool:
        """Whether the group `group` (from 0) of a step is searched: spread evenly, the same on every rank."""
        share = self.share_at(step)
        return int((group + 1) * share) > int(group * share)
