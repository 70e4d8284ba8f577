"""Training and validation problems as requests to an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jobs.data.example import Example
from jobs.generate.protocol import Request, Sample, Thoughts
from jobs.grade.rewards import Attempt
from jobs.grade.samples import Row
from jobs.methods.asking import Questions
from jobs.methods.rows import Rows
from jobs.rl.rollout import Rollout
from jobs.train.order import Order
from latentctl.spec.disturbance import DisturbanceSpec
from latentctl.spec.grpo import GrpoSettings
from latentctl.spec.prompt import PromptSpec
from latentctl.spec.sampling import SamplingSpec


class Problems:
    """Of the training set, in the order in which they are drawn.

    A problem is drawn at a place of an endless stream of epochs; its rollouts depend on (seed, place, number
    in the group) alone.
    """

    def __init__(
        self, questions: Questions, prompt: PromptSpec, settings: GrpoSettings, *, seed: int
    ) -> None:
        self.questions, self.settings = questions, settings
        self.order = Order(len(questions.examples), batch=1, seed=seed)
        self.sampling = SamplingSpec(
            temperature=settings.temperature, max_new_tokens=settings.max_completion_len, seed=seed
        )
        self.texts = Texts(questions, prompt)
        self.disturbance: DisturbanceSpec | None = None
        """Settled; None: noise, if there is any, falls on every latent step."""

    def __len__(self) -> int:
        return len(self.questions.examples)

    def request(self, place: int, index: int, *, searched: bool = False) -> Request:
        """Rollout `index` of the problem at `place` of the stream, sampled or found by tree search."""
        row = self.order.row(place)
        asked = self.questions.request(row, index)
        thoughts = asked.thoughts
        if thoughts is not None:
            thoughts = replace(thoughts, disturbance=self.disturbance, record=True)
        name = f"{place}:{asked.id}"
        return replace(
            asked,
            id=name,
            sampling=self.sampling,
            thoughts=thoughts,
            markers=None,
            tempered=True,
            tree=self.settings.tree if searched else None,
        )

    def attempt(self, one: Rollout) -> Attempt:
        """What the rewards are asked about."""
        return self.texts.attempt(self.order.row(one.draw), one.sample)

    def shown(self, one: Rollout) -> Row:
        """As an evaluation would write it down, under the problem's own id."""
        at = self.order.row(one.draw)
        return {**self.texts.rows.sample(one.sample, at), "id": self.questions.examples[at].id}

    def measuring(self, count: int) -> list[Request]:
        """One undisturbed sample of each of the first `count` problems, with the entropy of each latent
        step."""
        found = []
        for row in range(min(count, len(self))):
            asked = self.questions.request(row, 0, trace=0)
            found.append(replace(asked, sampling=self.sampling, thoughts=quiet(asked.thoughts), markers=None))
        return found


class Texts:
    """What a reader sees of a sample."""

    def __init__(self, questions: Questions, prompt: PromptSpec) -> None:
        self.questions = questions
        self.rows = Rows(questions, prompt)

    def attempt(self, row: int, sample: Sample) -> Attempt:
        """Of the problem in that row."""
        example: Example = self.questions.examples[row]
        shown = self.rows.sample(sample, row)
        return Attempt(
            text=shown["text"],
            gold=example.answer,
            meta=example.meta,
            markers=tuple(shown["markers"]),
            prompt=shown["prompt"],
            latents=sample.latents,
            truncated=sample.cause == "length",
            tokens=len(sample.ids) - sample.marker_tokens,
        )


def quiet(thoughts: Thoughts | None) -> Thoughts | None:
    """The same without noise: how validation and measuring decode."""
    if thoughts is None or thoughts.spec.noise is None:
        return thoughts
    return replace(thoughts, spec=thoughts.spec.model_copy(update={"noise": None}))


def validation_requests(questions: Questions, *, tempered: bool) -> list[Request]:
    """Every sample of every validation problem, as an evaluation would draw them. `tempered`: the engine is
    one of tempered log-probs; nobody reads these."""
    samples = questions.sampling.samples
    asked = [questions.request(row, k) for row in range(len(questions.examples)) for k in range(samples)]
    return [replace(one, thoughts=quiet(one.thoughts), tempered=tempered) for one in asked]


def rollout(place: int, group: int, draw: int, request: Request, sample: Sample) -> Rollout:
    """A sample that came, at its place in the set, of the problem at `draw` of the stream."""
    branch = sample.branch
    return Rollout(
        place,
        group,
        request.ids,
        sample,
        draw,
        drawn=branch is None,
        counts=sample.cause != "error" and not (branch is not None and branch.duplicate),
    )


def failed(samples: Sequence[Sample]) -> str | None:
    """Why not one of them could be generated; None where one was."""
    if not samples or any(s.cause != "error" for s in samples):
        return None
    return samples[0].error or "no reason was given"
