"""Validation while the policy trains: answers as an evaluation draws them, without noise."""

from __future__ import annotations

from typing import Any

import torch

from jobs.data.load import Loaded
from jobs.generate.protocol import Sample
from jobs.grade.rewards import Rewards
from jobs.methods.asking import Asking, Questions
from jobs.methods.grpo.problems import Texts, failed, validation_requests
from jobs.methods.protocol import Preempted, World
from jobs.rl.rolling import Roller, Stopped
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError


class Held:
    """The validation problems of a stage as requests."""

    def __init__(self, asking: Asking, data: Loaded, tokenizer: Any, *, tempered: bool) -> None:
        self.questions: Questions = asking.put(data, data.examples, tokenizer=tokenizer)
        self.texts = Texts(self.questions, asking.prompt)
        self.requests = validation_requests(self.questions, tempered=tempered)


class Validation:
    """Of one stage, in one process; each takes every n-th sample."""

    def __init__(self, held: Held, roller: Roller, rewards: Rewards, world: World) -> None:
        self.roller, self.rewards, self.texts = roller, rewards, held.texts
        self.requests = held.requests[world.rank :: world.size]
        places = {e.id: row for row, e in enumerate(held.questions.examples)}
        self.rows = {(r.id, r.index): places[r.id] for r in self.requests}

    def measure(self, step: int) -> dict[str, float]:
        """`accuracy` and `reward` over all samples, `tokens` and `truncated`, `latents` where there are any.
        A sample that could not be graded counts as not correct, as in an evaluation, and not in the reward.
        A collective; raises Preempted on all ranks where one was told to stop."""
        key = f"valid-{step:06d}"
        self.roller.ask(key, self.requests)
        samples: list[Sample] = []
        stopped = ""
        try:
            samples.extend(self.roller.take(key))
        except Stopped as error:
            stopped = str(error)
        if distributed.all_max(float(bool(stopped))):
            raise Preempted(stopped or "another process was told to stop")
        self.roller.done(key)
        if why := failed(samples):
            raise JobUserError(f"no validation answer could be generated: {why}")
        whole = [s for s in samples if s.cause != "error"]
        judged = self.rewards.judge([self.texts.attempt(self.rows[s.id, s.index], s) for s in whole])
        right = sum(found.verdict.correct for found in judged)
        known = [found.total for found in judged if found.total is not None]
        sums = [
            len(samples),
            right,
            len(known),
            sum(known),
            sum(len(s.ids) - s.marker_tokens for s in whole),
            sum(s.cause == "length" for s in whole),
            sum(s.latents for s in whole),
        ]
        n, right, graded, reward, tokens, truncated, latents = distributed.all_sum(
            torch.tensor(sums, dtype=torch.float64)
        ).tolist()
        found = {
            "accuracy": right / n,
            "reward": reward / graded if graded else float("nan"),
            "tokens": tokens / n,
            "truncated": truncated / n,
        }
        return found | ({"latents": latents / n} if latents else {})
