"""From rollouts to rows of the loss: log-probs before the update, advantages, what each position counts."""

from __future__ import annotations

import torch

from jobs.methods.grpo.collecting import Collected
from jobs.methods.grpo.objective import GrpoObjective
from jobs.methods.grpo.plan import SetPlan
from jobs.methods.grpo.rows import GrpoRow, row_of
from jobs.rl.advantages import advantages, zero_variance
from jobs.rl.aggregate import scales
from jobs.rl.entropy import threshold
from jobs.runtime import distributed
from jobs.train.engine import Engine
from jobs.train.objective import Item
from latentctl.spec.grpo import GrpoSettings


class Teaching:
    """Of one stage, in one process."""

    def __init__(
        self, plan: SetPlan, settings: GrpoSettings, engine: Engine, objective: GrpoObjective
    ) -> None:
        self.plan, self.settings, self.engine, self.objective = plan, settings, engine, objective
        kl = settings.kl
        self.penalised = kl.beta > 0 and kl.where == "reward"
        self.scores = settings.updates > 1 or settings.entropy_token_ratio < 1 or self.penalised
        """What the policy says before the first update is needed by itself: a forward without gradient."""

    def rows(self, collected: Collected) -> tuple[dict[int, GrpoRow], dict[str, float]]:
        """This rank's rows of the set by place, without those that teach nothing, and what to tell. A
        collective."""
        settings, table, groups = self.settings, collected.table, collected.groups
        counts = table.counts.bool()
        rows = {r.place: row_of(r) for r in collected.rollouts if counts[r.place]}
        told: dict[str, float] = {}
        reward = table.reward
        if self.penalised:
            rows = self._scored(rows)
            gap = self._gather({p: row.scored.reference for p, row in rows.items() if row.scored})
            reward = reward - settings.kl.beta * gap
            told["kl_of_sample"] = float(gap[counts].mean()) if counts.any() else 0.0
        flat = zero_variance(reward, groups, counts)
        active = counts.clone()
        if settings.zero_variance != "keep":
            active &= ~flat[groups]
        if settings.mask_truncated:
            active &= ~table.truncated.bool()
        rows = {p: row for p, row in rows.items() if active[p]}
        if self.scores and not self.penalised:
            rows = self._scored(rows)
        advantage = advantages(reward, groups, counts, settings.advantage)
        scale, weight, legacy = self._scales(table.positions, active)
        high = self._high(rows)
        rows = {
            p: row._replace(
                advantage=float(advantage[p]),
                scale=float(scale[p]),
                weight=float(weight[p]),
                legacy=float(legacy[p]),
                high=high,
            )
            for p, row in rows.items()
        }
        known = reward[counts]
        told |= {
            "zero_variance_groups": float(flat.double().mean()),
            "rows_trained": float(active.double().mean()),
            "reward_std": float(known.std()) if len(known) > 1 else 0.0,
        }
        return rows, told

    def _scales(
        self, positions: torch.Tensor, active: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of all rollouts of the set, minibatch by minibatch: scale, weight, and the share of the whole
        weight that makes a mean over samples of what is not summed over positions."""
        settings, size = self.settings, self.plan.split.batch
        local = settings.local_rows or settings.group_size
        scale, weight, legacy = [], [], []
        for p, a in zip(positions.split(size), active.split(size), strict=True):
            s, w = scales(p, a, settings.aggregation, max_len=settings.max_completion_len, local_rows=local)
            scale.append(s)
            weight.append(w)
            legacy.append(a.double() * w.sum() / a.sum().clamp(min=1))
        return torch.cat(scale), torch.cat(weight), torch.cat(legacy)

    def _scored(self, rows: dict[int, GrpoRow]) -> dict[int, GrpoRow]:
        """With what the policy says of them now. Every rank scores equally many batches."""
        micro = self.plan.split.micro
        places = sorted(rows, key=lambda p: rows[p].length)
        parts = [places[i : i + micro] for i in range(0, len(places), micro)]
        parts += [[]] * (int(distributed.all_max(len(parts))) - len(parts))
        batches = (self.objective.collate([Item(rows[p], p) for p in part]) for part in parts)
        found: dict[int, GrpoRow] = {}
        for part, scores in zip(parts, self.engine.score(batches), strict=True):
            found |= dict(zip(part, self.objective.put([rows[p] for p in part], scores), strict=True))
        return found

    def _gather(self, own: dict[int, float]) -> torch.Tensor:
        """(R,) from all ranks."""
        held = torch.zeros(self.plan.rollouts, dtype=torch.float64)
        for place, value in own.items():
            held[place] = value
        return distributed.all_sum(held)

    def _high(self, rows: dict[int, GrpoRow]) -> float:
        """The entropy from which on a token of this set enters the policy loss."""
        if self.settings.entropy_token_ratio >= 1:
            return float("-inf")
        own = [row.scored.entropy for row in rows.values() if row.scored is not None]
        every = distributed.gather(torch.cat(own) if own else torch.zeros(0))
        return threshold(torch.cat(every), self.settings.entropy_token_ratio)
