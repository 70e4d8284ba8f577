"""One set of rollouts: asked, taken, rewarded; groups that teach nothing are drawn anew where that is asked
for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from jobs.generate.protocol import Request, Sample
from jobs.grade.rewards import Rewards
from jobs.methods.grpo.plan import SetPlan
from jobs.methods.grpo.problems import Problems, failed, rollout
from jobs.methods.grpo.table import Table
from jobs.methods.protocol import Preempted
from jobs.rl.advantages import zero_variance
from jobs.rl.rolling import Roller, Stopped
from jobs.rl.rollout import Rollout
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError
from latentctl.spec.grpo import GrpoSettings


@dataclass
class Collected:
    """A set, as this rank has it."""

    rollouts: list[Rollout]
    """This rank's own."""
    table: Table
    """Of all."""
    groups: torch.Tensor
    """(R,) int64: which group each place belongs to."""
    told: dict[str, float] = field(default_factory=dict)


class Asked(NamedTuple):
    """A set that was asked and not taken."""

    places: list[int]
    """In the stream of problems, of each group."""
    version: int
    """Of the policy that makes it."""


class Collector:
    """Of one stage, in one process. `cursor`: the next place of the stream of problems; the same on every
    rank, and all the state there is."""

    def __init__(
        self,
        plan: SetPlan,
        problems: Problems,
        rewards: Rewards,
        roller: Roller,
        settings: GrpoSettings,
        *,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.plan, self.problems, self.rewards, self.roller = plan, problems, rewards, roller
        self.settings = settings
        self.cursor = 0
        self.groups = torch.arange(plan.rollouts) // plan.group
        self._asked: dict[int, Asked] = {}
        """By set."""

    def ask(self, number: int, version: int) -> None:
        """Begin set `number`, of the policy now."""
        first = self.cursor
        self.cursor += self.plan.groups
        self._asked[number] = Asked(list(range(first, self.cursor)), version)
        self._send(number, 0, dict(enumerate(self._asked[number].places)), version)

    def asked(self, number: int) -> bool:
        return number in self._asked

    def pending(self) -> dict[str, Any]:
        """Sets that were asked and not taken, for a checkpoint."""
        return {str(number): asked._asdict() for number, asked in self._asked.items()}

    @property
    def versions(self) -> set[int]:
        """Of the policies that pending sets are drawn from."""
        return {asked.version for asked in self._asked.values()}

    def restore(self, cursor: int, pending: dict[str, Any]) -> None:
        """Go on as a checkpoint says; `resend` follows once the roller has the policies."""
        self.cursor = cursor
        self._asked = {int(number): Asked(**asked) for number, asked in pending.items()}

    def resend(self) -> None:
        """Ask again what was asked by the attempt before and not taken."""
        for number, (places, version) in self._asked.items():
            self._send(number, 0, dict(enumerate(places)), version)

    def take(self, number: int, version: int) -> Collected:
        """The set, whole. `version`: of the policy now. A collective. Raises Preempted on all ranks where one
        was told to stop, with the set still pending and the cursor as it was; JobUserError where nothing
        could be generated."""
        begin, cursor = time.monotonic(), self.cursor
        try:
            collected = self._collect(number, version)
        except Preempted:
            self.cursor = cursor
            raise
        del self._asked[number]
        collected.told["rollout_seconds"] = time.monotonic() - begin
        return collected

    def _collect(self, number: int, version: int) -> Collected:
        drawn = dict(enumerate(self._asked[number].places))
        held: dict[int, Rollout] = {}
        rounds, table = 0, None
        while True:
            self._take(number, rounds, drawn, held, version)
            table = Table.gather(list(held.values()), self.plan.rollouts, self.rewards.names, version=version)
            again = self._barren(table) if self._redraws(rounds) else []
            if not again:
                break
            rounds += 1
            drawn = {group: self.cursor + i for i, group in enumerate(again)}
            self.cursor += len(again)
            for place in [p for p in held if int(self.groups[p]) in drawn]:
                del held[place]
            self._send(number, rounds, drawn, version)
        for each in range(rounds + 1):
            self.roller.done(_key(number, each))
        told = {"redrawn_rounds": float(rounds)}
        return Collected(sorted(held.values(), key=lambda r: r.place), table, self.groups, told)

    def _redraws(self, rounds: int) -> bool:
        return self.settings.zero_variance == "resample" and rounds < self.settings.resample_rounds

    def _barren(self, table: Table) -> list[int]:
        """Groups whose rollouts all got the same."""
        flat = zero_variance(table.reward, self.groups, table.counts.bool())
        return flat.nonzero().squeeze(-1).tolist()

    def _mine(self, drawn: dict[int, int]) -> list[tuple[int, int]]:
        """(place in the set, place in the stream) of this rank's rollouts of these groups."""
        return [(p, drawn[g]) for p in self.plan.every if (g := p // self.plan.group) in drawn]

    def _send(self, number: int, rounds: int, drawn: dict[int, int], version: int) -> None:
        requests = [self._request(number, p, at) for p, at in self._mine(drawn)]
        self.roller.ask(_key(number, rounds), requests, version)

    def _request(self, number: int, place: int, at: int) -> Request:
        """Of the rollout at `place` of a set, whose problem stands at `at` of the stream."""
        tree = self.settings.tree
        group, index = divmod(place, self.plan.group)
        searched = tree is not None and tree.searched(number * self.plan.updates, group)
        return self.problems.request(at, index, searched=searched)

    def _take(
        self, number: int, rounds: int, drawn: dict[int, int], held: dict[int, Rollout], version: int
    ) -> None:
        where: dict[tuple[str, int], tuple[int, int, Request]] = {}
        for place, at in self._mine(drawn):
            request = self._request(number, place, at)
            where[request.id, request.index] = place, at, request
        came: list[Rollout] = []
        try:
            for sample in self.roller.take(_key(number, rounds)):
                place, at, request = where.pop((sample.id, sample.index))
                if version - sample.version > self.settings.stale:
                    raise RuntimeError(f"{sample.id}: drawn {version - sample.version} steps ago")
                came.append(rollout(place, place // self.plan.group, at, request, sample))
            stopped = ""
        except Stopped as error:
            stopped = str(error)
        if distributed.all_max(float(bool(stopped))):
            raise Preempted(stopped or "another process was told to stop")
        if where:
            raise RuntimeError(f"{len(where)} rollouts never came, such as {next(iter(where))}")
        self._whole([one.sample for one in came])
        self._reward([one for one in came if one.sample.cause != "error"])
        held.update({one.place: one for one in came})

    def _whole(self, samples: Sequence[Sample]) -> None:
        if why := failed(samples):
            raise JobUserError(f"no rollout could be generated: {why}")

    def _reward(self, came: Sequence[Rollout]) -> None:
        judged = self.rewards.judge([self.problems.attempt(one) for one in came])
        for one, found in zip(came, judged, strict=True):
            one.rewards, one.verdict = dict(found.values), found.verdict
            one.reward = None if found.total is None else found.total - self._overlong(one.sample)

    def _overlong(self, sample: Sample) -> float:
        """What is taken off for coming close to the room's end (DAPO, arXiv 2503.14476, equation 13)."""
        spec = self.settings.overlong
        if spec is None:
            return 0.0
        used = len(sample.ids) + sample.latents
        return spec.penalty * overlong(used, self.settings.max_completion_len, spec.buffer)


def overlong(used: int, room: int, buffer: int) -> float:
    """From 0 where `used` positions leave the buffer free, to 1 at the end of the room."""
    return min(1.0, max(0.0, (used - (room - buffer)) / buffer))


def _key(number: int, rounds: int) -> str:
    return f"set-{number:06d}.{rounds}"
