"""Coconut's stage rule: how many latent steps stand for how many text steps. Pure: numbers alone, no text.

Sources: Coconut, arXiv 2412.06769 (`count: scheduled`), and the staged cold start of latent-CoT RL
(`count: per_example`, `count: difficulty`, the data filter).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

from latentctl.spec.latent import PerStep, StopSpec
from latentctl.spec.methods import CoconutSettings, DifficultySpec

_SLACK = 2
"""Where the model decides when to stop, its hard cap is so many times the longest span it was trained on."""


class Cut(NamedTuple):
    """What becomes of one problem's reference steps."""

    latents: int
    """Latent positions."""
    text: range
    """Which steps stay as text; those before are replaced, those after are left out."""


@dataclass(frozen=True)
class Curriculum:
    """The rule of one curriculum stage.

    Training and evaluation are two rules, as in the published method: at a stage up to `max_stage`, training
    gives every problem stage · c latent steps, however few steps it has; evaluation never gives more than it
    has steps for, unless `pad_latent_to_max` is set.
    """

    settings: CoconutSettings

    @property
    def stage(self) -> int:
        """The curriculum stage that is trained."""
        return self.settings.stages()[0] or 0

    @property
    def latent(self) -> bool:
        """Whether there are latent steps and markers at all."""
        return self.settings.variant == "coconut"

    def train(self, steps: int, *, stage: int | None = None, asked: int = 0) -> Cut:
        """The training row of a problem with `steps` reference steps; `stage` (drawn, see `draw`) in place of
        the stage's own; `asked`: latent positions for `count: difficulty`, see `difficulty_counts`."""
        settings = self.settings
        stage = self.stage if stage is None else stage
        each = settings.latents_per_step if self.latent else 0
        if settings.variant == "cot":
            return Cut(0, range(steps))
        if settings.variant == "no_cot":
            return Cut(0, range(0))
        if settings.count == "difficulty":
            return Cut(asked, range(0))
        last = stage > settings.max_stage
        if settings.count == "per_example":
            replaced = min(stage, steps)
            cut_off = last and settings.overflow == "truncate"
            return Cut(replaced * each, range(replaced, replaced if cut_off else steps))
        if last:
            replaced = settings.max_stage if settings.pad_latent_to_max else min(steps, settings.max_stage)
            return Cut(replaced * each, range(0))
        return Cut(stage * each, range(min(stage, steps), steps))

    def evaluate(self) -> StopSpec | None:
        """When a span ends in evaluation; None where no rule can say: a count by difficulty is known for
        training problems alone, so `dynamic` or `latent.stop` must say it. Only where there are latent
        steps."""
        settings, stage = self.settings, self.stage
        each = settings.latents_per_step
        per_example = settings.count == "per_example"
        replaced = stage if per_example else min(stage, settings.max_stage)
        if settings.dynamic:
            most = settings.difficulty.max if settings.difficulty else replaced * each
            return StopSpec(end_marker=True, max_len=_SLACK * most)
        if settings.count == "difficulty":
            return None
        if settings.pad_latent_to_max:
            return StopSpec(fixed=replaced * each)
        return StopSpec(per_step=PerStep(latents=each, cap=replaced))

    def draw(self, steps: int, *, place: int, seed: int) -> int:
        """The stage for one row: this stage's, or with `uniform_prob` one drawn from 0 .. `steps`.

        A function of (`seed`, `place`): the same in every process and after a resume.
        """
        if self.settings.uniform_prob == 0:
            return self.stage
        rng = random.Random(f"{seed}/{place}")
        uniform = rng.random() < self.settings.uniform_prob
        return rng.randint(0, steps) if uniform else self.stage

    def select(self, steps: Sequence[int], *, seed: int) -> list[int]:
        """Indices of the problems to train on, in order, by their numbers of steps.

        All, or by `data_mixing_ratio` those with at least as many steps as the stage, and so many times as
        many shorter ones drawn at random (at most all).
        """
        ratio = self.settings.data_mixing_ratio
        if ratio is None:
            return list(range(len(steps)))
        long = [i for i, n in enumerate(steps) if n >= self.stage]
        short = [i for i, n in enumerate(steps) if n < self.stage]
        wanted = min(len(short), round(ratio * len(long)))
        return sorted(long + random.Random(f"{seed}/mix").sample(short, wanted))


def difficulty_counts(spec: DifficultySpec, values: Sequence[float]) -> list[int]:
    """Latent positions of each problem of a set, by its difficulty: min + round(d · (max − min)).

    `values`: raw difficulties (for `field: steps` numbers of steps). d is the value, or its normal rank,
    divided by `divide_by`. Raises ValueError where a raw d does not lie in [0, 1].
    """
    if spec.normal or spec.field == "steps":
        scaled = [min(1.0, v / spec.divide_by) for v in normal_ranks(values)]
    else:
        scaled = [v / spec.divide_by for v in values]
        if wrong := [v for v in scaled if not 0 <= v <= 1]:
            raise ValueError(f"a difficulty of {wrong[0]:g} (after divide_by) does not lie in 0 to 1")
    return [spec.min + round(d * (spec.max - spec.min)) for d in scaled]


def normal_ranks(values: Sequence[float], mean: float = 0.5, deviation: float = 0.25) -> list[float]:
    """Values by rank on a normal distribution, cut to [0, 1].

    Equal values share their mean rank r (from 0); n values; the quantile is (r + 0.5) / n.
    """
    normal, n = NormalDist(mean, deviation), len(values)
    order = sorted(values)
    first = {v: i for i, v in reversed(list(enumerate(order)))}
    last = {v: i for i, v in enumerate(order)}
    quantiles = (((first[v] + last[v]) / 2 + 0.5) / n for v in values)
    return [min(1.0, max(0.0, normal.inv_cdf(q))) for q in quantiles]
