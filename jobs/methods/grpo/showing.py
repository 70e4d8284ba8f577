"""Some of the rollouts, for people: what the policy wrote, and what it was worth."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.grade import samples
from jobs.grade.samples import Appender, Row
from jobs.methods.grpo.problems import Problems
from jobs.methods.protocol import StageContext
from jobs.rl.rollout import Rollout

_GROUPS = 100
"""So many at most, spread over the training."""


class Showing:
    """Appends groups to rollouts.jsonl: rows of samples whose id begins with the optimizer step that trained
    on them first. The main process alone, one of its own groups at a time. `updates`: optimizer steps on one
    set; `total`: of the training."""

    def __init__(self, ctx: StageContext, problems: Problems, *, updates: int, total: int) -> None:
        self.ctx, self.problems, self.updates = ctx, problems, updates
        self.every = max(ctx.stage.train.log_every, -(-total // _GROUPS))

    def begin(self, step: int) -> None:
        """Forget what an attempt before had shown of steps after `step`."""
        path = self.ctx.paths.rollouts
        if path.exists():
            rows = list(samples.read_whole(path))
            samples.write(path, [row for row in rows if row["step"] <= step])

    def due(self, step: int) -> bool:
        """Whether of the set that step `step` (from 0) begins a group is shown."""
        return step == 0 or step // self.every > (step - self.updates) // self.every

    def show(self, step: int, rollouts: Sequence[Rollout]) -> None:
        """The first group among this process's rollouts of that set."""
        out = Appender(self.ctx.paths.rollouts)
        for one in rollouts:
            if one.group == rollouts[0].group:
                out.add(self._row(step + 1, one))
        out.close()

    def _row(self, step: int, one: Rollout) -> Row:
        row = self.problems.shown(one)
        verdict = one.verdict
        worth = ", ".join(f"{name} {_number(value)}" for name, value in one.rewards.items())
        said = f"reward {_number(one.reward)} ({worth})"
        return {
            **row,
            "id": f"step {step}: {row['id']}",
            "step": step,
            "version": one.sample.version,
            "reward": one.reward,
            "rewards": one.rewards,
            "verdict": verdict and verdict.status,
            "extracted": verdict and verdict.extracted,
            "reason": f"{verdict.reason}; {said}" if verdict else said,
        }


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
