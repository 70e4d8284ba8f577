"""The one training loop: every method that trains brings its objective and its rows, or a source of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from jobs.methods.protocol import Preempted, StageContext
from jobs.models.lora import add_lora
from jobs.models.plain_export import export
from jobs.runtime import distributed, rng
from jobs.runtime.errors import JobUserError
from jobs.train.checkpoint import Checkpoints
from jobs.train.engine import Engine, Stepped
from jobs.train.feed import Feed
from jobs.train.judge import judge
from jobs.train.losing import Losing
from jobs.train.objective import Batch, Objective
from jobs.train.order import Order, mix
from jobs.train.schedule import total_rows, total_steps
from jobs.train.source import Source, Supervised
from jobs.train.split import split_of
from jobs.train.state import TrainState
from latentctl.spec.train import TrainSpec

DEBUG_STEPS = 2
DEBUG_ROWS = 4
_SHOWN = ("reward", "accuracy")
"""Of a source's numbers, those that the progress line shows too."""

Reset = Literal["never", "on_stage", "every_epoch"]
"""When AdamW's moments are forgotten. `never`: they come from the checkpoint that the weights come from,
where there is one."""


class Trainer:
    """One stage's training, from wherever an earlier attempt left it, to the exported model.

    `rows` and `validation` must be the same on every rank; each rank takes its share. Or `source` makes the
    batches, of whose epoch `rows` is the size; it is made once engine and split are there. `metrics`: what a
    validation measures. What `latent` gives goes into `latent.json`: every rank asks it at each export, as
    learned settings may have to be gathered. Needs the process group of
    `distributed.init(world, deepspeed=True)`. Takes `model` for itself.
    """

    def __init__(
        self,
        ctx: StageContext,
        *,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        rows: Sequence[Any] | int,
        validation: Sequence[Any] | None = None,
        source: Callable[[Trainer], Source] | None = None,
        latent: Callable[[], dict[str, Any]],
        reset: Reset = "on_stage",
    ) -> None:
        self.ctx, self.tokenizer, self.objective, self.latent = ctx, tokenizer, objective, latent
        self.reset = reset
        count = rows if isinstance(rows, int) else len(rows)
        self.train = train = debugged(ctx.stage.train, ctx.world.size) if ctx.debug else ctx.stage.train
        _check(train, count, validation)
        self.split = split_of(train, world=ctx.world.size, rank=ctx.world.rank)
        self.total = total_steps(train, count)
        self.device = distributed.device(ctx.world)
        self.model = _prepared(model, train, seed=self.seed("lora"))
        self.engine = Engine(
            self.model,
            objective,
            train,
            split=self.split,
            total=self.total,
            device=self.device,
            dtype=model.dtype,
        )
        self.source = source(self) if source else self._supervised(rows, validation)
        _check_metrics(train, self.source, ("loss", *objective.metrics))
        self.checkpoints = Checkpoints(ctx, self.engine, self._export, self.source)
        self.state = TrainState(world_size=ctx.world.size)
        self._tokens = torch.zeros((), dtype=torch.float64, device=self.device)
        self._bad = torch.full((), math.inf, dtype=torch.float64, device=self.device)
        self._shown: dict[str, Any] = {}
        self._since = time.monotonic()
        spec = train.stop_losing
        self.losing = Losing(spec, ctx.run, ctx.stage.name) if spec and ctx.world.main else None

    def run(self) -> dict[str, Any]:
        """Train. Returns the numbers of result.json. Raises Preempted after a checkpoint, JobUserError where
        the loss is no longer a number."""
        self._start()
        state, train = self.state, self.train
        for batches in self._batches():
            if self.reset == "every_epoch" and self.source.begins_epoch(state.step):
                self.engine.forget()
            stepped = self.engine.step(batches)
            state.step += 1
            self._count(stepped)
            stop = self.ctx.stop.agreed()
            validate, save = self._due()
            if stop or validate or save or state.step % train.log_every == 0:
                self._log(stepped)
            self.ctx.report.progress(state.step, self.total, **self._shown)
            new_best = validate and self._validate()
            if stop or save or new_best or state.stopped:
                self._commit()
            if new_best:
                self._publish(self.ctx.paths.best)
            if stop and not state.stopped and state.step < self.total:
                raise Preempted(f"checkpoint of step {state.step} of {self.total} committed")
            if state.stopped:
                break
        return self._finish()

    def _batches(self) -> Iterator[list[Batch]]:
        """Of the steps that are left. Where the source is interrupted, what it has goes into a checkpoint."""
        if self.state.stopped:  # by an attempt that was killed before it could finish
            return
        try:
            yield from self.source.batches(self.state.step, self.total)
        except Preempted as error:
            self._commit()
            raise Preempted(
                f"checkpoint of step {self.state.step} of {self.total} committed: {error}"
            ) from None

    def _supervised(self, rows: Sequence[Any] | int, validation: Sequence[Any] | None) -> Source:
        assert not isinstance(rows, int), "a number of rows needs a source"
        end = total_rows(self.train, len(rows))
        order = Order(len(rows), batch=self.train.batch, seed=self.seed("order"), total=end)
        feed = Feed(rows, self.objective, order=order, split=self.split)
        return Supervised(
            feed,
            self.engine,
            self.objective,
            validation=validation,
            split=self.split,
            workers=self.train.workers,
        )

    def _start(self) -> None:
        """Fresh random streams, or everything as the last checkpoint left it."""
        rng.seed_all(self.seed("rank", self.ctx.world.rank))
        if restored := self.checkpoints.restore():
            self.state = restored
        elif self.reset == "never" and (why := self.checkpoints.take_moments()):
            self.ctx.report.note(f"AdamW's moments start anew: {why}")
        if best := self.state.best:  # killed between the checkpoint and its publishing
            self.checkpoints.publish(best.step, self.ctx.paths.best)
        self._since = time.monotonic()

    def _due(self) -> tuple[bool, bool]:
        """Whether this step ends with a validation, with a checkpoint: the same on all ranks."""
        step, train = self.state.step, self.train
        end = step == self.total
        validate = end or (train.eval_every is not None and step % train.eval_every == 0)
        save = end or (train.save_every is not None and step % train.save_every == 0)
        return validate and self.source.validates, save

    def _count(self, stepped: Stepped) -> None:
        """On the device: waits for nothing."""
        self._tokens += stepped.tokens
        here = torch.where(stepped.loss_sum.isfinite(), math.inf, float(self.state.step))
        self._bad = torch.minimum(self._bad, here)

    def _log(self, stepped: Stepped) -> None:
        state = self.state
        loss, bad = self.engine.total([stepped.loss_sum, self._bad.isfinite()])
        loss /= max(float(stepped.weight), 1.0)
        if bad or not math.isfinite(loss):
            self._not_a_number()
        tokens, seconds = state.tokens, state.seconds
        self._tick()
        state.loss = loss
        self._shown = {
            "loss": loss,
            "lr": self.engine.last_lr,
            "grad_norm": self.engine.grad_norm(),
            "tokens_per_s": round((state.tokens - tokens) / max(state.seconds - seconds, 1e-9), 1),
            "epoch": self.source.epoch(state.step),
        }
        more = {**self._means(stepped), **self.source.told()}
        self.ctx.report.log(state.step, **self._shown, **more)
        self._shown |= {k: v for k, v in more.items() if k in _SHOWN}

    def _means(self, stepped: Stepped) -> dict[str, float]:
        """Of what the objective summed up over the global batch; what nothing was summed into is left out."""
        names = sorted(stepped.metrics)
        if not names:
            return {}
        sums = dict(zip(names, self.engine.total([stepped.metrics[n] for n in names]), strict=True))
        counts = {n: sums.get(f"{n}_n", float(stepped.weight)) for n in names if not n.endswith("_n")}
        return {n: sums[n] / count for n, count in counts.items() if count > 0}

    def _not_a_number(self) -> None:
        step = -distributed.all_max(-float(self._bad))
        step = self.state.step if math.isinf(step) else int(step)
        raise JobUserError(
            f"the loss is not a number any more: step {step} of {self.total}",
            hint=f"lower train.lr ({self.train.lr:g}), add train.warmup, "
            f"or set train.clip (now {self.train.clip:g})",
        )

    def _validate(self) -> bool:
        """True where it is the best so far."""
        measured = self.source.validate()
        self._since = time.monotonic()
        self.ctx.report.log(self.state.step, **{f"validation_{k}": v for k, v in measured.items()})
        best = judge(self.train, self.state, measured)
        if self.train.stop_losing and not self.state.stopped and self.state.step < self.total:
            self.state.stopped = distributed.broadcast(self._falls_behind(measured))
        return best

    def _falls_behind(self, measured: dict[str, float]) -> str | None:
        """On rank 0: why this point of a sweep should stop."""
        if self.losing is None:
            return None
        return self.losing.stops(self.state.step, measured[self.losing.spec.metric])

    def _commit(self) -> None:
        self.checkpoints.commit(self.state, last=self.train.keep.last)
        self._since = time.monotonic()

    def _publish(self, target: Path) -> None:
        self.checkpoints.publish(self.state.step, target)
        self._since = time.monotonic()

    def _tick(self) -> None:
        """Bring time and tokens up to now; what follows a tick until `_since` is set anew is not training."""
        now = time.monotonic()
        self.state.tokens += int(self._tokens)
        self.state.seconds += now - self._since
        self._tokens.zero_()
        self._since = now

    def _export(self, folder: Path, step: int) -> None:
        export(self.model, self.tokenizer, folder, {**self.latent(), "step": step})

    def seed(self, *what: int | str) -> int:
        return mix(self.ctx.experiment.seed, self.ctx.stage.name, *what)

    def _finish(self) -> dict[str, Any]:
        state, best = self.state, self.state.best
        self._publish(self.ctx.paths.model)
        self.engine.close()
        if self.losing is not None:
            value = (state.validation or {}).get(self.losing.spec.metric)
            self.losing.ended(value, stopped=state.stopped is not None)
        if state.stopped:
            self.ctx.report.note(f"stopped at step {state.step} of {self.total}: {state.stopped}")
        return {
            "loss": state.loss,
            "steps": state.step,
            "epochs": self.source.epoch(state.step),
            "tokens": state.tokens,
            "train_seconds": round(state.seconds, 3),
            "tokens_per_s": round(state.tokens / max(state.seconds, 1e-9), 1),
            "rows": self.source.rows,
            "best": asdict(best) if best else None,
            "validation": state.validation,
            "stopped": state.stopped,
            "world_size": self.ctx.world.size,
        }


def debugged(train: TrainSpec, world: int) -> TrainSpec:
    """`submit --debug`: two steps of four rows (or of one a process), validated and saved at the end."""
    batch = max(DEBUG_ROWS // world, 1) * world
    return train.model_copy(
        update={
            "steps": DEBUG_STEPS,
            "epochs": None,
            "batch": batch,
            "micro_batch": batch // world,
            "warmup": 0.0,
            "log_every": 1,
            "eval_every": train.eval_every and DEBUG_STEPS,
            "save_every": None,
            "early_stop": None,
            "stop_losing": None,
            "workers": 0,
        }
    )


def _check(train: TrainSpec, rows: int, validation: Sequence[Any] | None) -> None:
    if rows == 0:
        raise JobUserError("there is not one row to train on")
    if validation is not None and len(validation) == 0:
        raise JobUserError("the validation set has not one row")


def _check_metrics(train: TrainSpec, source: Source, known: Sequence[str]) -> None:
    if train.eval_every is not None and not source.validates:
        raise JobUserError(
            "train.eval_every is set, but there is nothing to validate on", hint="add `validation:`"
        )
    asked = {
        "train.keep.best": train.keep.best,
        "train.early_stop.metric": train.early_stop and train.early_stop.metric,
        "train.stop_losing.metric": train.stop_losing and train.stop_losing.metric,
    }
    for key, metric in asked.items():
        if metric is not None and metric not in known:
            raise JobUserError(f"{key}: no metric {metric!r} here", hint=f"there are {', '.join(known)}")


def _prepared(model: PreTrainedModel, train: TrainSpec, *, seed: int) -> PreTrainedModel:
    if train.lora:
        add_lora(model, train.lora, seed=seed)
    if train.gradient_checkpointing:
        try:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except ValueError as e:
            raise JobUserError(str(e), hint="set train.gradient_checkpointing to false") from e
    return model
