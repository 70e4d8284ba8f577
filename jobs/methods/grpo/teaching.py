"""From rollouts to rows of the loss: log-probs before the update, advantages, what each position counts."""

from __future__ import annotations

import torch

from jobs.methods.grpo.collecting import Collected
from jobs.methods.grpo.objective import GrpoObjective
from jobs.methods.grpo.plan import SetPlan
from jobs.methods.grpo.rows import GrpoRow, row_of
from jobs.rl.advantages import advantages, zero_variance
from jobs.rl.aggregate import scales
from jobs.train.engine import Engine
from latentctl.spec.grpo import GrpoSettings


class Teaching:
    """Of one stage, in one process."""

    def __init__(
        self, plan: SetPlan, settings: GrpoSettings, engine: Engine, objective: GrpoObjective
    ) -> None:
        self.plan, self.settings, self.engine, self.objective = plan, settings, engine, objective

    def rows(self, collected: Collected) -> tuple[dict[int, GrpoRow], dict[str, float]]:
        """This rank's rows of the set by place, without those that teach nothing, and what to tell. A
        collective."""
        settings, table, groups = self.settings, collected.table, collected.groups
        counts = table.counts.bool()
        reward = table.reward
        flat = zero_variance(reward, groups, counts)
        active = counts.clone()
        if settings.zero_variance != "keep":
            active &= ~flat[groups]
        if settings.mask_truncated:
            active &= ~table.truncated.bool()
        advantage = advantages(reward, groups, counts, settings.advantage)
        scale, weight = self._scales(table.positions, active)
        made = {r.place: row_of(r) for r in collected.rollouts if active[r.place]}
        rows = {
            p: row._replace(advantage=float(advantage[p]), scale=float(scale[p]), weight=float(weight[p]))
            for p, row in made.items()
        }
        told = {
            "zero_variance_groups": float(flat.double().mean()),
            "rows_trained": float(active.double().mean()),
            "reward_std": float(reward[counts].std()) if int(counts.sum()) > 1 else 0.0,
        }
        return rows, told

    def _scales(self, positions: torch.Tensor, active: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of all rollouts of the set, minibatch by minibatch."""
        settings, size = self.settings, self.plan.split.batch
        local = settings.local_rows or settings.group_size
        each = [
            scales(p, a, settings.aggregation, max_len=settings.max_completion_len, local_rows=local)
            for p, a in zip(positions.split(size), active.split(size), strict=True)
        ]
        return torch.cat([s for s, _ in each]), torch.cat([w for _, w in each])
