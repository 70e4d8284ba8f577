"""Settings of GRPO on text and latent steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from latentctl.spec.base import Spec
from latentctl.spec.engine import EngineSpec
from latentctl.spec.methods import MethodSettings, register
from latentctl.spec.rewards import RewardsSpec
from latentctl.spec.tree import TreeRollouts


class KlSpec(Spec):
    """Pull towards the model as it was when the stage began."""

    beta: float = Field(default=0.0, ge=0)
    """0: off, and no reference model is loaded."""
    where: Literal["loss", "reward"] = "loss"
    """`loss`: k3 of text tokens (of latent steps the closed form where there is one), at every update;
    `reward`: beta times the log-ratio of the whole sample is taken off its reward."""


class MismatchSpec(Spec):
    """Text tokens were drawn by an engine whose numbers are not quite the trainer's: the loss is corrected
    with w = π_trainer / π_engine. Latent steps need none: their densities are the trainer's own."""

    mode: Literal["none", "token_truncate", "token_mask", "sequence_mask"] = "sequence_mask"
    """`token_truncate`: each token's loss times min(w, cap); `token_mask`: times w where that lies within
    [1 / cap, cap], else 0 (IcePop); `sequence_mask`: samples whose product of w lies outside count
    nothing."""
    cap: float = Field(default=3.0, gt=1)


class OverlongSpec(Spec):
    """Takes from 0 to `penalty` off the reward, growing over the last `buffer` positions of the room."""

    buffer: int = Field(ge=1)
    penalty: float = Field(default=1.0, gt=0)


class LatentLossSpec(Spec):
    """What latent steps add to the loss."""

    kind: Literal["pg", "l1", "l2", "kl"] = "pg"
    """`pg`: the policy gradient, with the exact density of the noise. Legacy of document 000, not a policy
    gradient: weight · advantage · mean distance (`l1`, `l2` between what was fed and what the model would
    feed undisturbed; `kl` between the noisy and the model's weights) of disturbed steps."""
    weight: float = Field(default=1.0, gt=0)
    bounded: bool = False
    """Legacy kinds: a negative advantage pushes without end. true: only positive ones count."""
    reduction: Literal["sum", "mean_over_dims"] = "sum"
    """Of a step's log-density over its dimensions. `sum` is exact; its ratio is so noisy that it serves one
    update per rollout alone."""


class RolloutSpec(Spec):
    """Where rollouts are generated."""

    processes: int = Field(default=0, ge=0, le=4096)
    """The last so many processes of the job hold engines and do not train; 0: the training processes
    generate themselves."""
    ahead: int = Field(default=0, ge=0, le=1)
    """1: while the trainer updates, the next rollouts are generated with the weights of before, so that they
    are one set old; older ones are never trained on. `mismatch` corrects text tokens for it; noisy latent
    steps cannot be, and are refused. Needs `processes`."""


@register
class GrpoSettings(EngineSpec, MethodSettings):
    """Group relative policy optimisation (arXiv 2402.03300) on text and on disturbed latent steps.

    One optimizer step takes `train.batch` rollouts. `sampling` is how validation answers are drawn.
    """

    method = "grpo"
    implementation = "jobs.methods.grpo:Grpo"
    output = "checkpoint"
    trains = True
    generates = True
    latent = True
    disturbs = True
    sources = ((("tree", "divergence"), "judge"),)
    metrics = ("accuracy", "reward")

    group_size: int = Field(default=8, ge=2, le=1024)
    """Rollouts of one problem."""
    max_completion_len: int = Field(default=256, ge=1, le=1_048_576)
    """Longest rollout: tokens and latent steps together."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """At which rollouts are drawn and trained on. There is no top-k, top-p or min-p: what is drawn from a cut
    distribution has another density than the one that is trained."""
    minibatches: int = Field(default=1, ge=1)
    """Optimizer steps that share out one set of rollouts."""
    passes: int = Field(default=1, ge=1)
    """How often each rollout is trained on."""

    advantage: Literal["group_std", "group", "leave_one_out", "batch_std"] = "group_std"
    """Reward less the group's mean, over the group's standard deviation (+ 1e-4), over nothing, or over that
    of all rollouts; `leave_one_out`: less the mean of the group's others."""
    aggregation: Literal["dapo", "dr_grpo", "grpo", "bnpo"] = "dapo"
    """How positions add up to the loss of an optimizer step, whatever its split into processes and
    micro-batches. `dapo`: mean over positions; `grpo`: mean over samples of their means; `dr_grpo`: sum over
    positions by samples × max_completion_len; `bnpo`: mean over local batches of `local_rows` samples of the
    mean over their positions."""
    local_rows: int | None = Field(default=None, ge=1)
    """Of `bnpo`; one group if unsaid. 1 is what a micro-batch of one sample makes of it."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio of each position, or one of each sample: the geometric mean (GSPO,
    arXiv 2507.18071)."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The ratio is clipped to 1 − clip_low from below."""
    clip_high: float = Field(default=0.2, gt=0)
    """And to 1 + clip_high from above; 0.28 in DAPO (arXiv 2503.14476)."""
    clip_delta: float | None = Field(default=None, gt=1)
    """Two-sided: the ratio never counts more than this, also where the advantage is negative."""
    kl: KlSpec = Field(default_factory=KlSpec)
    entropy_token_ratio: float = Field(default=1.0, gt=0, le=1)
    """Only this share of the text tokens, those of highest entropy over all rollouts of the set, enters the
    policy loss; 1 is off (document 000's entropy_loss_ratio)."""
    mismatch: MismatchSpec = Field(default_factory=MismatchSpec)
    zero_variance: Literal["drop", "keep", "resample"] = "drop"
    """Groups whose rewards are all the same teach nothing. `drop`: they do not count in the loss; `keep`:
    they count in its denominators; `resample`: other problems are drawn in their place."""
    resample_rounds: int = Field(default=8, ge=1)
    """Of `resample`: after so many rounds the rest is dropped."""
    overlong: OverlongSpec | None = None
    mask_truncated: bool = False
    """Rollouts that reached max_completion_len do not enter the loss; they still count in the advantages of
    their group."""
    latent_loss: LatentLossSpec = Field(default_factory=LatentLossSpec)

    rewards: RewardsSpec = Field(default_factory=RewardsSpec)
    grader: str = "auto"
    """As `eval.grader`."""
    grade_timeout: float = Field(default=10.0, gt=0)
    """As `eval.grade_timeout`."""
    rollout: RolloutSpec = Field(default_factory=RolloutSpec)
    tree: TreeRollouts | None = None
    """Rollouts by tree search."""
    logit_memory: int = Field(default=256, ge=1)
    """MiB of logits that the loss holds at once: longer batches go through the head in parts."""

    @model_validator(mode="after")
    def _whole(self) -> GrpoSettings:
        if self.local_rows is not None and self.aggregation != "bnpo":
            raise ValueError(f"local_rows belongs to aggregation: bnpo, not {self.aggregation}")
        if self.rollout.ahead and not self.rollout.processes:
            raise ValueError("rollout.ahead needs rollout.processes: engines that generate meanwhile")
        if self.overlong is not None and self.overlong.buffer > self.max_completion_len:
            raise ValueError(
                f"overlong.buffer ({self.overlong.buffer}) is longer than max_completion_len "
                f"({self.max_completion_len})"
            )
        return self

    @property
    def generators(self) -> int:
        return self.rollout.processes

    @property
    def stale(self) -> int:
        """The most optimizer steps that a rollout may be old when its set is first trained on."""
        return self.rollout.ahead * self.updates

    @property
    def updates(self) -> int:
        """Optimizer steps on one set of rollouts."""
        return self.minibatches * self.passes
