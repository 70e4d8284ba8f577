"""`method: grpo`: rollouts, rewards, advantages, and a policy gradient on text and latent steps alike."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, cast

from torch import nn

from jobs.data import Example
from jobs.grade.registry import get
from jobs.grade.rewards import Rewards
from jobs.latent.actions import stores_inputs
from jobs.methods.asking import Asking
from jobs.methods.grpo.collecting import Collector
from jobs.methods.grpo.engine import forget, generate, open_roller
from jobs.methods.grpo.objective import GrpoObjective
from jobs.methods.grpo.plan import SetPlan
from jobs.methods.grpo.policy_model import freeze_embeddings, without_dropout
from jobs.methods.grpo.problems import Problems
from jobs.methods.grpo.source import RolloutSource
from jobs.methods.grpo.validating import Held, Validation
from jobs.methods.preparing import Preparing
from jobs.methods.protocol import StageContext
from jobs.runtime import distributed
from jobs.runtime.errors import JobUserError
from jobs.train.loop import Trainer
from jobs.train.source import Source
from latentctl.spec.grpo import GrpoSettings, RolloutSpec
from latentctl.spec.latent import LATENT_TOKEN

DEBUG_GROUP = 2
DEBUG_LENGTH = 64


class Grpo:
    """One stage in one process."""

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        settings = cast(GrpoSettings, ctx.stage.settings)
        self.settings = debugged(settings) if ctx.debug else settings
        self.preparing = Preparing(ctx)
        self.asking = Asking(ctx)
        self.held = ExitStack()

    def run(self) -> dict[str, Any]:
        """Train. Returns the numbers of result.json. Raises Preempted, JobUserError."""
        with self.held:
            numbers = self.prepare().run()
        if self.ctx.world.main:
            forget(self.ctx)
        return {**numbers, **self.source.result(), "bad_rows": len(self.data.bad_rows)}

    def generate(self) -> None:
        """In a process that makes rollouts for those that run. Raises Preempted, JobUserError."""
        examples = self._problems()
        problems = Problems(self.questions, self.asking.prompt, self.settings, seed=0)
        longest = [problems.request(place, 0) for place in range(len(examples))]
        held_out = self._validation()
        longest += held_out.requests if held_out else []
        generate(self.ctx, self.settings, self.tokenizer, longest)

    def prepare(self) -> Trainer:
        """The training before its first step. What it opened is closed with `held`."""
        ctx, settings = self.ctx, self.settings
        distributed.init(ctx.world, deepspeed=True)
        examples = self._problems()
        grader = self.data.grader if settings.grader == "auto" else settings.grader
        get(grader, ctx.experiment.plugins)  # a wrong name is better known before hours of generation
        model = self.preparing.model(self.tokenizer)
        without_dropout(model)
        self._freeze(model)
        self.rewards = self.held.enter_context(self._rewards(grader))
        return Trainer(
            ctx,
            model=model,
            tokenizer=self.tokenizer,
            objective=self._objective(),
            rows=len(examples) * settings.group_size,
            source=self._source,
            latent=self._latent,
        )

    def _problems(self) -> list[Example]:
        """Those that are trained on, put to this stage's tokenizer."""
        self.data, self.held_out = self.preparing.problems()
        examples = self.preparing.some(self.data.examples)
        target = "answer" if self.asking.prompt.form == "answer" else "cot"
        self.tokenizer = self.preparing.tokenizer((self.data, self.held_out), target, "auto")
        self.questions = self.asking.put(self.data, examples, tokenizer=self.tokenizer)
        return examples

    def _objective(self) -> GrpoObjective:
        start, _ = self.questions.marker_ids()
        latent = self.asking.latent
        pauses = latent is not None and latent.input is not None and latent.input.kind == "pause"
        token = cast(int, self.tokenizer.convert_tokens_to_ids(LATENT_TOKEN)) if pauses else None
        return GrpoObjective(
            self.settings,
            latent=latent,
            disturbance=self.ctx.stage.disturbance,
            start=max(1, len(start)),
            token=token,
            pad=cast(int, self.tokenizer.pad_token_id),
            reference=self._reference(),
        )

    def _reference(self) -> nn.Module | None:
        """The model as it is before the first step. None where nobody asks, and with LoRA, where it is the
        policy without its adapters."""
        if self.settings.kl.beta == 0 or self.ctx.stage.train.lora is not None:
            return None
        model = self.preparing.model(self.tokenizer)
        without_dropout(model)
        return model.requires_grad_(False).eval()

    def _freeze(self, model: Any) -> None:
        latent = self.asking.latent
        if latent is not None and not stores_inputs(latent, self.ctx.stage.disturbance):
            words = freeze_embeddings(model)
            if self.ctx.world.main:
                self.ctx.report.note(f"{self.ctx.stage.name}: note: {words}")

    def _rewards(self, grader: str) -> Rewards:
        ctx, settings = self.ctx, self.settings
        return Rewards(
            settings.rewards,
            grader,
            form=self.asking.prompt.form,
            latent=self.asking.latent,
            max_len=settings.max_completion_len,
            model=ctx.stage.model.path,
            timeout=settings.grade_timeout,
            plugins=ctx.experiment.plugins,
        )

    def _source(self, trainer: Trainer) -> Source:
        ctx, settings = self.ctx, self.settings
        plan = SetPlan(trainer.split, settings.group_size, settings.minibatches, settings.passes)
        if plan.rollouts % settings.group_size:
            raise JobUserError(
                f"{plan.rollouts} rollouts (train.batch × minibatches) are no whole number of groups of "
                f"{settings.group_size}",
                where=f"{ctx.stage.name}.grpo.group_size",
            )
        problems = Problems(self.questions, self.asking.prompt, settings, seed=trainer.seed("rollouts"))
        longest = [problems.request(place, 0) for place in range(len(problems))]
        held_out = self._validation()
        longest += held_out.requests if held_out else []
        roller = self.held.enter_context(open_roller(ctx, settings, trainer, longest))
        validation = None if held_out is None else Validation(held_out, roller, self.rewards, ctx.world)
        collector = Collector(plan, problems, self.rewards, roller, settings)
        self.source = RolloutSource(ctx, trainer, plan, collector, roller, validation, settings)
        return self.source

    def _validation(self) -> Held | None:
        if self.held_out is None:
            return None
        tempered = self.settings.temperature != 1.0
        return Held(self.asking, self.held_out, self.tokenizer, tempered=tempered)

    def _latent(self) -> dict[str, Any]:
        """What an evaluation of the checkpoint needs: noise is the training's alone."""
        latent = self.asking.latent
        said = {} if latent is None else latent.model_dump(mode="json", exclude={"noise"})
        return {
            **said,
            "prompt": self.asking.prompt.model_dump(mode="json"),
            "stage": self.ctx.stage.name,
            "method": self.ctx.stage.method,
        }


def debugged(settings: GrpoSettings) -> GrpoSettings:
    """`submit --debug`: groups of two short rollouts, one update, in one process."""
    return settings.model_copy(
        update={
            "group_size": DEBUG_GROUP,
            "max_completion_len": min(DEBUG_LENGTH, settings.max_completion_len),
            "minibatches": 1,
            "passes": 1,
            "overlong": None,
            "rollout": RolloutSpec(),
        }
    )
