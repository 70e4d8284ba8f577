"""What is known of every rollout of a set, on every rank: rewards, lengths, what counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.rl.rollout import Rollout
from jobs.runtime import distributed

_COLUMNS = (
    "there",
    "known",
    "reward",
    "counts",
    "positions",
    "tokens",
    "latents",
    "noised",
    "truncated",
    "stale",
    "searched",
)


@dataclass
class Table:
    """(R,) each, float64, by place; flags are 0 and 1. `values` and `known_values` (R, rewards)."""

    there: Tensor
    known: Tensor
    """Its reward is known: the grader did not fail."""
    reward: Tensor
    counts: Tensor
    positions: Tensor
    """Text tokens that were drawn and latent steps with noise: where the policy gradient acts."""
    tokens: Tensor
    latents: Tensor
    noised: Tensor
    truncated: Tensor
    stale: Tensor
    """Policy version now less the one that it was drawn with."""
    searched: Tensor
    """Found by tree search, not drawn."""
    names: tuple[str, ...]
    values: Tensor
    known_values: Tensor

    @staticmethod
    def gather(rollouts: Sequence[Rollout], size: int, names: tuple[str, ...], *, version: int) -> Table:
        """Every rank brings its own; a collective."""
        held = torch.zeros(size, len(_COLUMNS) + 2 * len(names), dtype=torch.float64)
        for one in rollouts:
            sample = one.sample
            known = one.reward is not None
            noised = 0 if sample.actions is None else int((sample.actions.kind != 0).sum())
            row = [
                1.0,
                known,
                one.reward if one.reward is not None else 0.0,
                one.counts and known,
                drawn_tokens(one) + noised,
                len(sample.ids) - sample.marker_tokens,
                sample.latents,
                noised,
                sample.cause == "length",
                version - sample.version,
                not one.drawn,
            ]
            said = [one.rewards.get(name) for name in names]
            row += [0.0 if v is None else v for v in said] + [v is not None for v in said]
            held[one.place] = torch.tensor([float(v) for v in row], dtype=torch.float64)
        whole = distributed.all_sum(held)
        n = len(_COLUMNS)
        columns = dict(zip(_COLUMNS, whole[:, :n].T, strict=True))
        return Table(
            **columns,
            names=names,
            values=whole[:, n : n + len(names)],
            known_values=whole[:, n + len(names) :],
        )

    def told(self) -> dict[str, float]:
        """Means over the rollouts that are there; a reward's over those where it is known."""
        n = float(self.there.sum())
        if n == 0:
            return {}
        mean = lambda column: float((column * self.there).sum()) / n  # noqa: E731
        known = float(self.known.sum())
        latents = float(self.latents.sum())
        found = {
            "reward": float((self.reward * self.known).sum()) / known if known else math.nan,
            "completion_tokens": mean(self.tokens),
            "truncated": mean(self.truncated),
            "ungraded": n - known,
            "staleness": mean(self.stale),
            "searched": mean(self.searched),
        }
        if latents:
            found |= {"latents": mean(self.latents), "disturbed": float(self.noised.sum()) / latents}
        for i, name in enumerate(self.names):
            count = float(self.known_values[:, i].sum())
            if count:
                found[f"reward_{name}"] = float((self.values[:, i] * self.known_values[:, i]).sum()) / count
        return found


def drawn_tokens(one: Rollout) -> int:
    """Text tokens that the policy drew, the end of sequence among them."""
    sample = one.sample
    return len(sample.ids) - len(sample.forced_at) + (sample.end is not None)
