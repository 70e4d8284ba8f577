"""Sets of rollouts become the batches of optimizer steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from jobs.generate.protocol import Request, Sample
from jobs.methods.grpo.collecting import Collector
from jobs.methods.grpo.objective import GrpoObjective
from jobs.methods.grpo.plan import SetPlan
from jobs.methods.grpo.rows import GrpoRow
from jobs.methods.grpo.showing import Showing
from jobs.methods.grpo.teaching import Teaching
from jobs.methods.grpo.threshold import settled
from jobs.methods.grpo.validating import Validation
from jobs.methods.protocol import StageContext
from jobs.rl.rolling import Roller
from jobs.train.loop import Trainer
from jobs.train.objective import Batch, Item
from latentctl.record.atomic import read_json, write_json
from latentctl.spec.grpo import GrpoSettings

_FILE = "rollouts.json"


class RolloutSource:
    """See `jobs.train.source.Source`. The policy's version is the number of optimizer steps done.

    Its state is small where a checkpoint falls between two sets: the next place in the stream of problems.
    Within a set, the rows that are still to be trained on are kept too, with the log-probs that they had
    before its first update; and of a set that was asked ahead the policy that makes it.
    """

    def __init__(
        self,
        ctx: StageContext,
        trainer: Trainer,
        plan: SetPlan,
        collector: Collector,
        roller: Roller,
        validation: Validation | None,
        settings: GrpoSettings,
    ) -> None:
        self.ctx, self.trainer, self.plan, self.collector = ctx, trainer, plan, collector
        self.roller, self.validation, self.settings = roller, validation, settings
        assert isinstance(trainer.objective, GrpoObjective)
        self.objective = trainer.objective
        self.teaching = Teaching(plan, settings, trainer.engine, self.objective)
        self.rows = len(collector.problems) * plan.group
        self.validates = validation is not None
        self.held: dict[int, GrpoRow] = {}
        """By place: this rank's rows of the set that is trained on."""
        self.step = 0
        """Done so far."""
        self._told: dict[str, float] = {}
        self._noised = [0.0, 0.0]
        """Noised latent steps, and latent steps, of all sets so far."""
        self._pushed: int | None = None
        self._settled = False
        self._flagged: set[str] = set()
        self.showing = (
            Showing(ctx, collector.problems, updates=plan.updates, total=trainer.total)
            if ctx.world.main
            else None
        )

    def batches(self, start: int, end: int) -> Iterator[list[Batch]]:
        self.step = start
        if self.showing:
            self.showing.begin(start)
        self._settle()
        if start in self.collector.versions:
            self._push(start)
        self.collector.resend()
        for step in range(start, end):
            if step % self.plan.updates == 0:
                self._new_set(step, end)
            rows = [self.held[p] for p in self.plan.mine(step) if p in self.held]
            rows.sort(key=lambda row: row.length)  # little padding; the sum is the same in any order
            parts = self.plan.parts(list(range(len(rows))))
            batches = [self.objective.collate([Item(rows[i], i) for i in part]) for part in parts]
            self.step = step + 1  # whoever validates or saves before the next one has taken it
            yield batches

    def begins_epoch(self, step: int) -> bool:
        before, now = self._seen(step - 1), self._seen(step)
        return step > 0 and int(before) < int(now)

    def epoch(self, step: int) -> float:
        return round(self._seen(step), 4)

    def validate(self) -> dict[str, float]:
        assert self.validation is not None, "there is nothing to validate on"
        self._push(self.step)
        return self.validation.measure(self.step)

    def told(self) -> dict[str, float]:
        return self._told

    def save(self, folder: Path) -> None:
        rank = self.ctx.world.rank
        if self.ctx.world.main:
            state = {
                "cursor": self.collector.cursor,
                "asked": self.collector.pending(),
                "told": self._told,
                "noised": self._noised,
            }
            write_json(folder / _FILE, state)
        self.roller.save(folder, {v for v in self.collector.versions if v < self.step})
        if self.step % self.plan.updates:
            torch.save(self.held, folder / f"rollouts-{rank:05d}.pt")

    def load(self, folder: Path) -> None:
        said = read_json(folder / _FILE)
        self.collector.restore(said["cursor"], said["asked"])
        self.roller.load(folder)
        self._told, self._noised = said["told"], said["noised"]
        path = folder / f"rollouts-{self.ctx.world.rank:05d}.pt"
        if path.exists():
            self.held = torch.load(path, weights_only=False)

    def result(self) -> dict[str, Any]:
        """For result.json: the newest set's numbers, and the share of all latent steps that were noised."""
        noised, latents = self._noised
        share = {"disturbed": noised / latents} if latents else {}
        return {"rollouts": {k: round(v, 6) for k, v in self._told.items()}, **share}

    def sample(self, key: str, requests: Sequence[Request]) -> list[Sample]:
        """This rank's samples of some requests, generated now."""
        self.roller.ask(key, requests)
        samples = list(self.roller.take(key))
        self.roller.done(key)
        return samples

    def _settle(self) -> None:
        """Before the first set of an attempt: the entropy from which steps are disturbed."""
        if self._settled:
            return
        problems, world = self.collector.problems, self.ctx.world

        def measure(count: int) -> list[Sample]:
            self._push(self.step)
            return self.sample("measure", problems.measuring(count)[world.rank :: world.size])

        problems.disturbance = settled(self.ctx, self.ctx.stage.disturbance, measure)
        self._settled = True

    def _push(self, version: int) -> None:
        if self._pushed != version:
            self.roller.push(self.trainer.model, version)
            self._pushed = version

    def _new_set(self, step: int, end: int) -> None:
        number = step // self.plan.updates
        begin = time.monotonic()
        self._push(step)
        if not self.collector.asked(number):
            self.collector.ask(number, step)
        for ahead in range(1, self.settings.rollout.ahead + 1):
            if not self.collector.asked(number + ahead) and step + ahead * self.plan.updates < end:
                self.collector.ask(number + ahead, step)
        collected = self.collector.take(number, step)
        self._flag()
        if self.showing and self.showing.due(step):
            self.showing.show(step, collected.rollouts)
        table = collected.table
        self._noised = [
            self._noised[0] + float(table.noised.sum()),
            self._noised[1] + float(table.latents.sum()),
        ]
        scored = time.monotonic()
        self.held, told = self.teaching.rows(collected)
        now = time.monotonic()
        self._told = {
            **collected.table.told(),
            **collected.told,
            **told,
            "score_seconds": now - scored,
            "set_seconds": now - begin,
        }

    def _flag(self) -> None:
        """Say once of each reward, and of the grader, that it failed; `ungraded` counts on."""
        for name, why in self.collector.rewards.why.items():
            if name not in self._flagged:
                self._flagged.add(name)
                words = f"{name} failed on a rollout, which is left out, and not wrong: {why}"
                self.ctx.report.note(f"{self.ctx.stage.name}: note: {words}")

    def _seen(self, step: int) -> float:
        return step * self.plan.split.batch / self.plan.passes / self.rows
